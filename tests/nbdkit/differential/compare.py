"""What one host made of a case, and where two of them differ."""

from dataclasses import dataclass, field

from .session import Step, visit


@dataclass
class Difference:
    """One step that came out otherwise: what nbdkit said and called, and what pydisk did."""

    what: str
    theirs: Step
    ours: Step
    # What nbdkit said in the steps before, by what they are called.
    known: dict = field(default_factory=dict, repr=False)

    def __str__(self):
        lines = [f"  {self.what}"]
        for name, step in (("nbdkit", self.theirs), ("pydisk", self.ours)):
            lines.append(f"    {name}: {step.told} {step.calls}")
        return "\n".join(lines)


def observe(server, case):
    """All that can be seen from outside: a Step for each thing that was done."""
    served = server.is_serving()
    steps = [Step("start", "serves" if served else "refuses", server.calls.more())]
    for number, client in enumerate(case.clients if served else ()):
        if number:
            steps.append(Step("next client"))
        steps += visit(server, client)
    ended = server.stop()
    steps.append(Step("end", ended, server.calls.more()))
    return steps


def differences(theirs, ours):
    """The steps in which they differ, up to where they do not do the same any more."""
    found = []
    for number, (one, other) in enumerate(zip(theirs, ours)):
        if one.what != other.what:
            break
        if one != other:
            known = {step.what: step.told for step in theirs[:number]}
            found.append(Difference(one.what, one, other, known))
            if {one.told, other.told} & {"gone", "refuses"}:
                break
    else:
        assert len(theirs) == len(ours), (theirs, ours)
    return found
