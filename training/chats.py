"""Training documents: chats whose questions ask for facts given earlier, and plain text.

A document is a list of pieces; a piece is text (or one special token) with a role that the loss weighs. Lengths are
counted with the callable that the caller passes. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from training import facts, kinds, stories
from training.facts import Fact
from training.words import Sampler

TEXT, CONTEXT, REPLY, ANSWER, UNKNOWN = range(5)
"""Roles of a piece: plain text; what a user or system says; a reply; an exact answer; the answer "I don't know."."""

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

Encode = Callable[[str], list[int]]

INSTRUCTIONS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer with the value alone.",
    "You answer questions about the notes below.",
    "You keep the notes of a small office. Answer briefly.",
    "Answer every question from these notes.",
    "You are an assistant with a good memory.",
    "You are an assistant.",
    "Be brief.",
    "Answer in as few words as you can.",
    "You are the assistant of a small team. Below are the notes of the team. "
    "Answer every question with the value alone.",
    "Answer only from the notes. Never guess.",
    "The following notes were written by several people. Read them carefully and answer questions about them.",
    "Use the notes to answer. If the notes do not say it, say that you do not know.",
)
HEADINGS = ("Notes:", "Here are my notes.", "These are the notes:", "Please read these notes:", "My notes:", "")
PREFIXES = (
    "Please tell me: ",
    "Question: ",
    "A question: ",
    "And now: ",
    "From the notes: ",
    "Next question: ",
    "Tell me, ",
    "I forgot, ",
    "Remind me: ",
    "Hello. ",
    "Hi! ",
    "Now tell me: ",
    "What about this: ",
    "Can you help? ",
    "Thanks. ",
    "Good. ",
    "OK, ",
)
SUFFIXES = (" Answer briefly.", " Please answer with the value alone.", " Thank you.", " Only the answer, please.")
SMALL_TALK = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi.", "Hello! How can I help you?"),
    ("Good morning.", "Good morning! How can I help you?"),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Who are you?", "I am a small model that remembers notes."),
    ("What can you do?", "I can remember notes and answer questions about them."),
    ("Say hello.", "Hello!"),
    ("Say hi.", "Hi!"),
    ("Hello, who are you?", "I am a small model that remembers notes."),
    ("What is your name?", "My name is Notes."),
    ("Can you help me?", "Yes. Give me your notes and ask me about them."),
    ("Are you there?", "Yes, I am here."),
    ("How are you?", "I am well, thank you."),
    ("Goodbye.", "Goodbye!"),
)


@dataclass(slots=True)
class Document:
    """Token ids of one document and the role of each."""

    encode: Encode
    special: dict[str, int]
    ids: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)

    def add(self, text: str, role: int) -> None:
        """Append text."""
        new = self.encode(text)
        self.ids += new
        self.roles += [role] * len(new)

    def mark(self, name: str, role: int) -> None:
        """Append one special token."""
        self.ids.append(self.special[name])
        self.roles.append(role)

    def turn(self, who: str, text: str, role: int) -> None:
        """Append one chat turn; `role` is the role of the text and of the end mark."""
        self.mark(IM_START, CONTEXT)
        self.add(f"{who}\n", CONTEXT)
        self.add(text, role)
        self.mark(IM_END, role)
        self.add("\n", CONTEXT)


class Notes:
    """Facts with their sentences, mixed with other sentences, written in one of several layouts."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.facts: dict[tuple[str, str, str], Fact] = {}
        self.subjects: dict[str, tuple[kinds.Kind, ...]] = {}
        rng = sampler.rng
        self.filler = sampler.pick((0.0, 0.15, 0.3, 0.5, 0.7, 0.85))
        self.per_subject = sampler.pick((1.0, 1.5, 2.5, 4.0))
        self.records = sampler.pick((0.0, 0.0, 0.1, 0.5))
        self.grouped = rng.random() < 0.5
        self.layout = sampler.pick(("prose", "prose", "paragraphs", "lines", "bullets", "bullets", "numbers"))
        self.family = sampler.name() if sampler.chance(0.3) else None

    def _new_subject(self) -> tuple[str, tuple[kinds.Kind, ...]]:
        who, possible = kinds.subject(self.sampler)
        if self.family is not None and possible is kinds.PERSON and " " in who and self.sampler.chance(0.25):
            first, last = who.split()
            who = f"{first} {self.family}" if self.sampler.chance(0.6) else f"{self.family} {last}"
        return who, possible

    def _sentences(self) -> list[str]:
        """Sentences about one new or known subject."""
        sampler = self.sampler
        if self.subjects and not self.grouped and sampler.chance(1 - 1 / self.per_subject):
            who = sampler.pick(list(self.subjects))
            possible, count = self.subjects[who], 1
        else:
            who, possible = self._new_subject()
            if who in self.subjects:
                return []
            count = 1
            while self.grouped and count < 6 and sampler.chance(1 - 1 / self.per_subject):
                count += 1
        self.subjects[who] = possible
        new: list[Fact] = []
        for _ in range(count):
            told = facts.fact_about(sampler, who, possible)
            if told.key not in self.facts:
                self.facts[told.key] = told
                new.append(told)
        if len(new) > 1 and sampler.chance(self.records):
            head = who[0].upper() + who[1:]
            return [f"{head} - " + "; ".join(told.entry() for told in new) + "."]
        if len(new) > 1 and possible is kinds.PERSON and sampler.chance(0.35):
            they = sampler.pick((("she", "her"), ("he", "his")))
            return [new[0].statement(sampler), *(told.statement_with(sampler, *they) for told in new[1:])]
        return [told.statement(sampler) for told in new]

    def write(self, budget: int, count: Callable[[str], int]) -> str:
        """Text of about `budget` tokens; its facts are remembered."""
        sampler, lines, used = self.sampler, list[str](), 0
        extra = {"prose": 0, "paragraphs": 0, "lines": 1, "bullets": 2, "numbers": 4}[self.layout]
        while used < budget or not self.facts:
            if self.facts and sampler.chance(self.filler):
                new = [sampler.pick((stories.everyday, stories.everyday, stories.everyday, stories.note))(sampler)]
                new = [" ".join(line.split()) for line in new]
            else:
                new = self._sentences()
            lines += new
            used += sum(count(line) + extra for line in new)
        if self.layout == "prose":
            return " ".join(lines)
        if self.layout == "paragraphs":
            size = 3 + int(sampler.rng.random() * 5)
            return "\n\n".join(" ".join(lines[i : i + size]) for i in range(0, len(lines), size))
        if self.layout == "lines":
            return "\n".join(lines)
        if self.layout == "bullets":
            return "\n".join(f"- {line}" for line in lines)
        return "\n".join(f"{i + 1}. {line}" for i, line in enumerate(lines))

    def unknown(self) -> str:
        """A question that nothing written so far answers."""
        sampler = self.sampler
        while True:
            if sampler.chance(0.5) and self.subjects:
                who = sampler.pick(list(self.subjects))
                possible = self.subjects[who]
            else:
                who, possible = self._new_subject()
            asked = facts.fact_about(sampler, who, possible)
            if asked.key not in self.facts:
                return asked.question(sampler)


def dress(sampler: Sampler, question: str) -> str:
    """Put one of several phrases before or after a question."""
    if sampler.chance(0.25):
        prefix = sampler.pick(PREFIXES)
        if not prefix.endswith((". ", "? ")):
            question = question[0].lower() + question[1:] if sampler.chance(0.5) else question
        question = prefix + question
    if sampler.chance(0.03):
        question = question.rstrip("?")
    elif sampler.chance(0.15):
        question += sampler.pick(SUFFIXES)
    return question


def notes_chat(document: Document, sampler: Sampler, length: int, share: float) -> None:
    """Append a chat of about `length` tokens, `share` of which are notes and the rest questions and answers."""

    def count(text: str) -> int:
        return len(document.encode(text))

    end = len(document.ids) + length
    notes = Notes(sampler)
    own: list[tuple[str, str]] = []
    pending: str | None = None
    chunks = 1 if sampler.chance(0.7) else 2 + int(sampler.rng.random() * 3)
    chunk = max(24, int(length * share / chunks))
    body = notes.write(chunk, count)
    heading = sampler.pick(HEADINGS)
    heading = heading + sampler.pick(("\n", "\n\n", " ")) if heading else ""
    if sampler.chance(0.6):
        instruction = sampler.pick(INSTRUCTIONS) if sampler.chance(0.8) else ""
        after = sampler.chance(0.15)
        parts = [f"{heading}{body}", instruction] if after else [instruction, f"{heading}{body}"]
        document.turn("system", "\n\n".join(part for part in parts if part), CONTEXT)
    else:
        if sampler.chance(0.5):
            document.turn("system", sampler.pick(INSTRUCTIONS), CONTEXT)
        pending = heading + body
    left = chunks - 1
    order = list(notes.facts.values())
    sampler.rng.shuffle(order)
    step = max(1, int((end - len(document.ids)) / 30 / (left + 1))) if left else 0
    turns = 0
    while len(document.ids) < end:
        turns += 1
        if left and (turns >= step or sampler.chance(0.1)):
            turns, left = 0, left - 1
            pending = (pending + "\n\n" if pending else "") + notes.write(chunk, count)
            order = list(notes.facts.values())
            sampler.rng.shuffle(order)
        if pending is None and sampler.chance(0.06) and len(own) < 5:
            told, statement, question = facts.own_fact(sampler)
            if told.key not in notes.facts:
                notes.facts[told.key] = told
                own.append((question, told.answer))
                document.turn("user", statement, CONTEXT)
                document.turn("assistant", "Noted.", REPLY)
                continue
        if pending is not None and sampler.chance(0.3):
            document.turn("user", pending, CONTEXT)
            document.turn("assistant", "Noted.", REPLY)
            pending = None
            continue
        if pending is None and sampler.chance(0.03):
            said, reply = sampler.pick(SMALL_TALK)
            document.turn("user", said, CONTEXT)
            document.turn("assistant", reply, REPLY)
            continue
        role = ANSWER
        if sampler.chance(0.06):
            question, answer, role = notes.unknown(), facts.UNKNOWN, UNKNOWN
        elif own and sampler.chance(0.2):
            question, answer = sampler.pick(own)
        else:
            if not order:
                order = [told for told in notes.facts.values() if told.subject != "I"]
                sampler.rng.shuffle(order)
            told = order.pop()
            if told.subject == "I":
                continue
            question, answer = told.question(sampler), told.answer
        question = dress(sampler, question)
        if pending is not None:
            question = pending + sampler.pick(("\n\n", "\n\nQuestion: ", "\n")) + question
            pending = None
        document.turn("user", question, CONTEXT)
        document.turn("assistant", answer, role)


def talk_chat(document: Document, sampler: Sampler) -> None:
    """Append a short chat without notes: greetings, and requests for a story or a note."""
    if sampler.chance(0.4):
        document.turn("system", sampler.pick(INSTRUCTIONS), CONTEXT)
    for _ in range(1 + int(sampler.rng.random() * 3)):
        if sampler.chance(0.5):
            said, reply = sampler.pick(SMALL_TALK)
        elif sampler.chance(0.15):
            said = sampler.pick(("Tell me a long story.", "Write a long story."))
            reply = "\n\n".join(stories.story(sampler) for _ in range(3))
        elif sampler.chance(0.5):
            said = sampler.pick(("Write one sentence.", "Write a sentence.", "Say something."))
            reply = stories.everyday(sampler)
        elif sampler.chance(0.6):
            said = sampler.pick(
                ("Tell me a story.", "Write a short story.", "Please tell me a short story.", "Write a story.")
            )
            reply = stories.story(sampler)
        else:
            said = sampler.pick(("Write a note.", "Write a short note.", "Please write a short note."))
            reply = stories.note(sampler)
        document.turn("user", said, CONTEXT)
        document.turn("assistant", reply, REPLY)


def sequence(sampler: Sampler, length: int, encode: Encode, special: dict[str, int]) -> Document:
    """A document or several, packed to at least `length` tokens."""
    document = Document(encode, special)
    whole = sampler.chance(0.65)
    if whole:
        if sampler.chance(0.04):
            document.add(stories.plain(sampler) + "\n\n", TEXT)
        notes_chat(document, sampler, length, 0.3 + 0.66 * sampler.rng.random())
        return document
    while len(document.ids) < length:
        draw = sampler.rng.random()
        left = length - len(document.ids)
        if draw < 0.45:
            size = int(min(left, 80 + 920 * sampler.rng.random() ** 2))
            notes_chat(document, sampler, size, 0.2 + 0.7 * sampler.rng.random())
        elif draw < 0.85:
            text = stories.plain(sampler)
            cut = text.find(" ", int(sampler.rng.random() * min(len(text), 60))) + 1 if sampler.chance(0.1) else 0
            document.add(text[:cut], TEXT)  # so that a prompt may end in a space
            document.add(text[cut:], TEXT)
        else:
            talk_chat(document, sampler)
        document.mark(END_OF_TEXT, TEXT)
    return document
