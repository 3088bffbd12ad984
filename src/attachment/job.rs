//! The job: one disk to serve, and all that the user asked for. A caller says what is wanted with a [`Builder`]; the
//! job then gets a name and a folder of its own, and goes to an agent.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::descriptors::Passing;
use super::folder::{Folder, Held, SCRIPT};
use super::policy::Conduct;
use super::registry::{Name, Root};
use crate::frontends::nbd::ServerOptions;
use crate::frontends::{Identity, Target};
use crate::layers::Named;
use crate::logging::Logging;
use crate::params::ErrnoSource;
use crate::{Refusal, ResultExt, escape};

/// One disk to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The name of the attachment.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Where the disk shall appear.
    pub target: Target,
    /// Whose disk it is.
    pub plugin: PluginOptions,
    /// What it is like.
    pub disk: DiskOptions,
    /// What a server is told besides its address.
    pub server: ServerOptions,
    /// What the worker inherits.
    pub descriptors: Descriptors,
    /// What is logged, and where to.
    pub logging: Logging,
    /// How the processes behave.
    pub conduct: Conduct,
}

/// The plugin, and what it is told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PluginOptions {
    /// What it is told to be called.
    pub called: Option<String>,
    /// Its script, as an absolute path.
    pub script: PathBuf,
    /// What to configure it with, in order.
    pub parameters: Vec<(String, String)>,
    /// Whose errno failures have; none leaves it to the script.
    pub errnos: Option<ErrnoSource>,
    /// The Python whose packages it sees; none is for the interpreter to find.
    pub python: Option<PathBuf>,
}

/// How the disk is opened and served.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DiskOptions {
    /// What tells its device or mount from those of others; by default one that nothing has had yet.
    pub identity: Identity,
    /// Whether it is opened for reading only.
    pub read_only: bool,
    /// Threads that serve a parallel plugin; none is for the plugin's kind to decide.
    pub lanes: Option<u16>,
    /// Bytes in a block of the device; none is for the plugin to decide.
    pub logical_block: Option<u32>,
    /// What stands between it and the plugin, the outermost first.
    pub layers: Vec<Named>,
    /// Whether the worker counts what it spends, and tells.
    pub measured: bool,
}

/// Descriptors that the worker inherits from its launcher, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// For its server: sockets that systemd listens on, or the user's standard input and output.
    pub inherited: Vec<RawFd>,
    /// Those that the plugin's parameters name, to read passwords from.
    pub passwords: Vec<RawFd>,
}

impl Descriptors {
    /// All of them.
    #[must_use]
    pub fn numbers(&self) -> Vec<RawFd> {
        [&self.inherited[..], &self.passwords].concat()
    }
}

impl Job {
    /// Begin with a script, as an absolute path, and what to configure it with.
    #[must_use]
    pub fn builder(script: PathBuf, parameters: Vec<(String, String)>) -> Builder {
        Builder {
            plugin: PluginOptions {
                script,
                parameters,
                ..PluginOptions::default()
            },
            disk: DiskOptions::default(),
            server: ServerOptions::default(),
            logging: Logging::default(),
            conduct: Conduct::of_attach(false, false),
            text: None,
            descriptors: Descriptors::default(),
            passing: Passing::default(),
        }
    }

    /// Refuse a path that is no text, which a relative one is in a folder of such a name: what processes say to each
    /// other, and what `list` shows, is text.
    fn refuse_bytes(&self) -> Result<(), Refusal> {
        let paths = [
            ("plugin", Some(&*self.plugin.script)),
            ("target", self.target.path()),
            ("state folder", Some(&*self.folder)),
            ("Python", self.plugin.python.as_deref()),
            ("folder", self.server.tls.certificates.as_deref()),
        ];
        for (what, path) in paths {
            if let Some(path) = path.filter(|path| path.to_str().is_none()) {
                let shown = escape::bytes(path.as_os_str().as_bytes());
                return Err(Refusal::about(
                    format_args!("{what} `{shown}`"),
                    "the path is not UTF-8",
                ));
            }
        }
        Ok(())
    }
}

/// What is wanted, before it has a name. By default it is what `pydisk attach` does in the background with a plugin
/// and nothing else.
#[derive(Debug)]
pub struct Builder {
    /// The plugin, and what it is told.
    pub plugin: PluginOptions,
    /// How the disk is opened and served.
    pub disk: DiskOptions,
    /// What a server is told besides its address.
    pub server: ServerOptions,
    /// What is logged, and where to.
    pub logging: Logging,
    /// How the processes behave.
    pub conduct: Conduct,
    /// The script's text, where the worker could not read it; it is kept in the attachment's folder.
    pub text: Option<Vec<u8>>,
    descriptors: Descriptors,
    passing: Passing,
}

impl Builder {
    /// Hold what this process has inherited for the server, and what the plugin's parameters name by `-FD`. Call it
    /// before anything else marks what is inherited.
    pub fn inherit(&mut self, for_server: Passing) {
        let for_plugin = Passing::named_in(&self.plugin.parameters);
        self.descriptors = Descriptors {
            inherited: for_server.numbers(),
            passwords: for_plugin.numbers(),
        };
        self.passing = for_server;
        self.passing.add(for_plugin);
    }

    /// The name of an attachment that nobody named. What comes through a pipe has a number for a name.
    #[must_use]
    pub fn name(&self) -> Name {
        match self.text {
            Some(_) => Name::from_script(Path::new(SCRIPT)),
            None => Name::from_script(&self.plugin.script),
        }
    }

    /// Take a name and make the folder of the attachment; `target` says where the disk shall appear, which may be in
    /// there.
    ///
    /// # Errors
    /// One sentence, and there is no folder: the name is taken, or something cannot be written, or is no text.
    pub fn reserve(
        self,
        root: Root,
        name: &Name,
        target: impl FnOnce(&Folder) -> Target,
    ) -> Result<Reserved, Refusal> {
        let (folder, held) = root.reserve(name)?;
        let mut reserved = Reserved {
            job: Job {
                name: folder.name(),
                folder: folder.path().to_owned(),
                target: target(&folder),
                plugin: self.plugin,
                disk: self.disk,
                server: self.server,
                descriptors: self.descriptors,
                logging: self.logging,
                conduct: self.conduct,
            },
            passing: self.passing,
            root,
            folder,
            held,
        };
        let complete = match self.text {
            Some(text) => reserved.keep(&text),
            None => Ok(()),
        };
        if let Err(refusal) = complete.and_then(|()| reserved.job.refuse_bytes()) {
            reserved.release()?;
            return Err(refusal);
        }
        Ok(reserved)
    }
}

/// A job with a name of its own, and what its launcher holds for it.
#[derive(Debug)]
pub struct Reserved {
    /// The job, which is complete.
    pub job: Job,
    /// Descriptors on their way to the worker.
    pub passing: Passing,
    /// Where attachments have their folders.
    pub root: Root,
    /// That of this one.
    pub folder: Folder,
    /// Until this process ends: by then the agent or nobody looks after the folder.
    pub held: Held,
}

impl Reserved {
    /// Keep the script in the attachment's folder.
    fn keep(&mut self, text: &[u8]) -> Result<(), Refusal> {
        let path = self.folder.script();
        std::fs::write(&path, text).refuse(format_args!("`{}`", path.display()))?;
        self.job.plugin.script = path;
        Ok(())
    }

    /// Remove the folder, where no agent came to look after it.
    ///
    /// # Errors
    /// As [`Root::release`].
    pub fn release(&self) -> Result<(), Refusal> {
        self.root.release(&self.folder, &self.held)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let place = tempfile::tempdir().unwrap();
        let root = Root::of(&Folder::at(place.path().join("x")));
        (place, root)
    }

    fn wanted(script: &Path) -> Builder {
        Job::builder(script.to_owned(), Vec::new())
    }

    fn file(folder: &Folder) -> Target {
        Target::File(folder.path().join("disk"))
    }

    #[test]
    fn a_job_gets_a_folder_and_a_name_of_its_own_and_may_give_them_back() {
        let (_place, root) = root();
        let names = ["ram", "ram-2"].map(|name| {
            let wanted = wanted(Path::new("/x/ram.py"));
            let named_after = wanted.name();
            let reserved = wanted.reserve(root.clone(), &named_after, file).unwrap();
            let Reserved { job, folder, .. } = &reserved;
            assert_eq!(job.target, file(folder));
            assert_eq!((&*job.folder, &*job.name), (folder.path(), name));
            reserved
        });
        assert_ne!(names[0].job.disk.identity, names[1].job.disk.identity);
        names[0].release().unwrap();
        let left = root.folders().unwrap();
        assert_eq!(left, [names[1].folder.clone()]);
    }

    #[test]
    fn the_text_of_a_script_is_kept_in_the_folder_and_names_the_attachment() {
        let (_place, root) = root();
        let mut wanted = wanted(Path::new("/dev/fd/63"));
        wanted.text = Some(b"x = 1".to_vec());
        let name = wanted.name();
        let reserved = wanted.reserve(root, &name, file).unwrap();
        assert_eq!(reserved.job.name, "script");
        let kept = std::fs::read(&reserved.job.plugin.script).unwrap();
        assert_eq!(kept, b"x = 1");
    }

    #[test]
    fn a_path_that_is_no_text_is_refused_and_no_folder_is_left() {
        let (_place, root) = root();
        let mut wanted = wanted(Path::new("/x.py"));
        wanted.plugin.python = Some(OsStr::from_bytes(b"/\xff").into());
        let refused = wanted.reserve(root.clone(), &Name::Given("x".into()), file);
        let refusal = refused.unwrap_err().to_string();
        assert_eq!(refusal, "Python `/\\xff`: the path is not UTF-8");
        assert_eq!(root.folders().unwrap(), []);
    }
}
