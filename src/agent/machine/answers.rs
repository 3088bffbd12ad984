//! What those are told who wait for the end.

use super::dead::Folder;
use super::{Action, Machine, Waiting};
use crate::Refusal;
use crate::attachment::{Answer, Told};

impl Machine {
    /// Answer everybody who waits.
    pub(super) fn answer_all(&mut self, ended: &Result<(), Refusal>, folder: Folder) {
        for waiting in std::mem::take(&mut self.waiting) {
            let answer = self.answer_to(&waiting, ended, folder);
            self.act(Action::Answer(waiting.client, answer));
        }
    }

    /// What somebody is told who wanted the disk to go.
    fn answer_to(&self, waiting: &Waiting, ended: &Result<(), Refusal>, folder: Folder) -> Answer {
        let refusal = ended.as_ref().err().cloned();
        let forced = waiting.until.is_none() && folder == Folder::Goes;
        match refusal {
            Some(refusal) if !forced => {
                let all = self.with_unstored(Err(refusal));
                Answer::Refused(all.expect_err("it was one").into())
            }
            // Nobody knew of the disk, or nobody could write to it.
            Some(refusal)
                if self.unstored.is_empty() && (!self.launcher.told || self.is_read_only()) =>
            {
                Answer::Done(Some(refusal.into()))
            }
            None if self.unstored.is_empty() => Answer::Done(None),
            refusal => {
                let all = self.unstored.iter().cloned().chain(refusal);
                Answer::Unstored(all.map(Told::from).collect())
            }
        }
    }

    /// How it ended, in one sentence.
    pub(super) fn with_unstored(&self, ended: Result<(), Refusal>) -> Result<(), Refusal> {
        if self.unstored.is_empty() {
            return ended;
        }
        let all = self.unstored.iter().cloned().chain(ended.err());
        let all: Vec<_> = all.map(|refusal| refusal.to_string()).collect();
        Err(Refusal::new(all.join("\n")))
    }
}
