"""Single facts: how one is drawn, stated, asked for and answered.

A statement always names its subject before the value. An answer is the value alone and a full stop. Knows nothing of
tokens or of chat turns.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.kinds import PERSON, Kind
from training.words import Sampler

UNKNOWN = "I don't know."
OWN_KINDS = frozenset(
    {"door code", "phone", "pet", "relative", "favourite colour", "colour", "birthday", "lesson", "code", "job"}
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact about one subject."""

    kind: Kind
    subject: str
    object: str
    value: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What must be unique in a context for the question to have one answer."""
        return (self.subject, self.kind.name, self.object)

    @property
    def answer(self) -> str:
        """The exact answer."""
        return f"{self.value}."

    def _fill(self, template: str) -> str:
        subject = self.subject
        possessive = "my" if subject == "I" else subject + "'s"
        text = template.format(s=subject, p=possessive, o=self.object, v=self.value)
        return text[0].upper() + text[1:]

    def statement(self, sampler: Sampler) -> str:
        """One of the statements of this fact, a full sentence."""
        return self._fill(sampler.pick(self.kind.statements))

    def statement_with(self, sampler: Sampler, pronoun: str, possessive: str) -> str:
        """A statement with a pronoun for its subject, to follow a sentence that names it."""
        fit = [text for text in self.kind.statements if "{p}" in text or text.startswith("{s} ")]
        text = sampler.pick(fit).format(s=pronoun, p=possessive, o=self.object, v=self.value)
        return text[0].upper() + text[1:]

    def question(self, sampler: Sampler) -> str:
        """One of the questions for this fact."""
        text = self._fill(sampler.pick(self.kind.questions))
        if sampler.chance(0.15):
            text = text.replace("What is ", "What's ").replace("Who is ", "Who's ").replace("Where is ", "Where's ")
        return text

    def entry(self) -> str:
        """The fact as a field of a record, such as `door code: 4817`."""
        return f"{self.kind.label.format(o=self.object)}: {self.value}"


def fact_about(sampler: Sampler, who: str, kinds: tuple[Kind, ...]) -> Fact:
    """A random fact about a subject."""
    kind = sampler.pick(kinds)
    return Fact(kind, who, sampler.pick(kind.objects), kind.value(sampler))


def own_fact(sampler: Sampler) -> tuple[Fact, str, str]:
    """A fact the user tells of themselves: the fact, the statement and the question, in the first person."""
    kind = sampler.pick([kind for kind in PERSON if kind.name in OWN_KINDS])
    told = Fact(kind, "I", sampler.pick(kind.objects), kind.value(sampler))
    mine = [template for template in kind.statements if "{s}" not in template]
    asked = [template for template in kind.questions if "{s}" not in template]
    return told, told._fill(sampler.pick(mine)), told._fill(sampler.pick(asked))
