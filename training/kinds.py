"""The kinds of facts: which attribute a subject of each sort can have, and the phrasings of statement and question.

Knows nothing of single facts, tokens or chat turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training import words
from training.words import Sampler


@dataclass(frozen=True, slots=True)
class Kind:
    """One attribute: its value, an optional object, and its phrasings.

    Placeholders: {s} the subject, {p} its possessive, {o} the object, {v} the value.
    """

    name: str
    value: Callable[[Sampler], str]
    label: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    objects: tuple[str, ...] = ("",)


def _kind(
    name: str,
    value: Callable[[Sampler], str],
    label: str,
    statements: str,
    questions: str,
    objects: tuple[str, ...] = ("",),
) -> Kind:
    return Kind(name, value, label, tuple(statements.split(" | ")), tuple(questions.split(" | ")), objects)


def _digits(count: int) -> Callable[[Sampler], str]:
    """Mostly `count` digits, so that no length is certain."""
    return lambda sampler: sampler.digits(count if sampler.chance(0.75) else 3 + int(sampler.rng.random() * 4))


def _number(low: int, high: int) -> Callable[[Sampler], str]:
    return lambda sampler: sampler.number(low, high)


def _who(sampler: Sampler) -> str:
    return sampler.person() if sampler.chance(0.5) else sampler.name()


PERSON = (
    _kind(
        "door code",
        _digits(4),
        "door code",
        "{p} door code is {v}. | the door code of {s} is {v}. | the code for {p} front door is {v}. | "
        "{s} opens the front door with the code {v}.",
        "what is {p} door code? | what is the door code of {s}? | which code opens {p} front door? | "
        "tell me the door code of {s}. | {p} door code?",
    ),
    _kind(
        "code",
        _digits(4),
        "{o} code",
        "{p} {o} code is {v}. | the code of {p} {o} is {v}. | {s} opens the {o} with the code {v}. | "
        "the code for {p} {o} is {v}.",
        "what is {p} {o} code? | what is the code of {p} {o}? | which code opens {p} {o}? | {p} {o} code?",
        words.LOCKED,
    ),
    _kind(
        "secret word",
        Sampler.word,
        "secret word",
        "{p} secret word is {v}. | the secret word of {s} is {v}.",
        "what is {p} secret word? | what is the secret word of {s}? | {p} secret word?",
    ),
    _kind(
        "phone",
        Sampler.phone,
        "phone number",
        "{p} phone number is {v}. | you can call {s} on {v}. | to reach {s} by phone, dial {v}. | "
        "the phone number of {s} is {v}.",
        "what is {p} phone number? | which number reaches {s} by phone? | what is the phone number of {s}? | "
        "on which number can I call {s}? | {p} phone number?",
    ),
    _kind(
        "locker",
        _digits(3),
        "locker",
        "{p} locker number is {v}. | {s} keeps a bag in locker {v}. | the locker of {s} has the number {v}.",
        "what is {p} locker number? | which locker belongs to {s}? | what number does the locker of {s} have?",
    ),
    _kind(
        "badge",
        _digits(5),
        "badge",
        "{p} badge number is {v}. | {s} wears badge number {v}. | the badge of {s} has the number {v}.",
        "what is {p} badge number? | which badge number does {s} wear? | what number is on the badge of {s}?",
    ),
    _kind(
        "pet",
        Sampler.name,
        "{o}",
        "{s} has a {o} called {v}. | {p} {o} is called {v}. | the name of {p} {o} is {v}. | {s} owns a {o} named {v}.",
        "what is {p} {o} called? | what is the name of {p} {o}? | how is the {o} of {s} called? | "
        "tell me the name of {p} {o}.",
        words.ANIMALS,
    ),
    _kind(
        "relative",
        _who,
        "{o}",
        "{p} {o} is {v}. | {p} {o} is called {v}. | {s} has a {o} named {v}. | the name of {p} {o} is {v}.",
        "who is {p} {o}? | what is the name of {p} {o}? | what is {p} {o} called? | tell me the name of {p} {o}. | "
        "{p} {o}?",
        words.RELATIVES,
    ),
    _kind(
        "home",
        Sampler.place,
        "home",
        "{s} lives in {v}. | {p} home is in {v}. | {s} has a house in {v}.",
        "where does {s} live? | in which town does {s} live? | where is {p} home?",
    ),
    _kind(
        "birthplace",
        Sampler.place,
        "born in",
        "{s} was born in {v}. | {p} birthplace is {v}. | the place where {s} was born is {v}.",
        "where was {s} born? | in which town was {s} born? | what is {p} birthplace?",
    ),
    _kind(
        "birthday",
        Sampler.date,
        "birthday",
        "{p} birthday is on {v}. | {s} has a birthday on {v}. | the birthday of {s} falls on {v}.",
        "when is {p} birthday? | on which day is {p} birthday? | what is the date of {p} birthday? | {p} birthday?",
    ),
    _kind(
        "favourite colour",
        Sampler.colour,
        "favourite colour",
        "{p} favourite colour is {v}. | the colour {s} likes best is {v}.",
        "what is {p} favourite colour? | which colour does {s} like best? | {p} favourite colour?",
    ),
    _kind(
        "colour",
        Sampler.colour,
        "colour of the {o}",
        "{p} {o} is {v}. | {s} has a {o} that is {v}. | the colour of {p} {o} is {v}.",
        "what colour is {p} {o}? | what is the colour of {p} {o}? | which colour does {p} {o} have?",
        words.BELONGINGS,
    ),
    _kind(
        "paid",
        Sampler.price,
        "paid for the {o}",
        "{s} paid for the {o} exactly {v}. | {s} bought a {o} for {v}. | for a {o}, {s} paid {v}.",
        "how much did {s} pay for the {o}? | what did {s} pay for the {o}? | what was the price of {p} {o}?",
        words.GOODS,
    ),
    _kind(
        "stores",
        _number(3, 999),
        "number of {o}",
        "{p} number of {o} is {v}. | {s} counted the {o} and found {v}. | of {o}, {s} keeps {v}.",
        "how many {o} does {s} keep? | how many {o} does {s} have? | what is {p} number of {o}?",
        words.STORES,
    ),
    _kind(
        "lesson",
        Sampler.clock,
        "{o}",
        "{p} {o} is at {v}. | {s} has a {o} at {v}. | the {o} of {s} starts at {v}.",
        "at what time is {p} {o}? | when is {p} {o}? | when does the {o} of {s} start?",
        words.LESSONS,
    ),
    _kind(
        "bus",
        _number(2, 499),
        "bus",
        "{s} takes bus number {v}. | {p} bus to work has the number {v}. | {s} rides to work on bus {v}.",
        "which bus does {s} take? | what is the number of {p} bus? | on which bus does {s} ride to work?",
    ),
    _kind(
        "job",
        Sampler.job,
        "job",
        "{s} works as a {v}. | {p} job is {v}. | by trade, {s} is a {v}.",
        "what is {p} job? | what does {s} work as? | what is {s} by trade? | {p} job?",
    ),
)

BUILDING = (
    _kind(
        "opens",
        Sampler.clock,
        "opens at",
        "{s} opens at {v}. | the doors of {s} open at {v}.",
        "at what time does {s} open? | when does {s} open? | when do the doors of {s} open?",
    ),
    _kind(
        "built",
        _number(1200, 1999),
        "built in",
        "{s} was built in {v}. | people built {s} in the year {v}.",
        "when was {s} built? | in which year was {s} built?",
    ),
    _kind(
        "run by",
        Sampler.person,
        "run by",
        "{s} is run by {v}. | the person in charge of {s} is {v}.",
        "who runs {s}? | who is in charge of {s}?",
    ),
    _kind(
        "ticket",
        Sampler.price,
        "ticket",
        "a ticket to {s} costs {v}. | the price of a ticket to {s} is {v}.",
        "how much is a ticket to {s}? | what does a ticket to {s} cost?",
    ),
    _kind(
        "wifi",
        Sampler.password,
        "wifi password",
        "the wifi password of {s} is {v}. | to use the wifi at {s}, type {v}.",
        "what is the wifi password of {s}? | which password do I need for the wifi at {s}?",
    ),
    _kind(
        "line",
        Sampler.phone,
        "phone number",
        "the phone number of {s} is {v}. | you can call {s} on {v}.",
        "what is the phone number of {s}? | on which number can I call {s}?",
    ),
)

PROJECT = (
    _kind(
        "leader",
        Sampler.person,
        "leader",
        "{s} is led by {v}. | {p} leader is {v}. | the leader of {s} is {v}.",
        "who leads {s}? | who is {p} leader? | who is the leader of {s}?",
    ),
    _kind(
        "deadline",
        Sampler.date,
        "deadline",
        "{p} deadline is {v}. | {s} must be done by {v}. | the deadline of {s} is {v}.",
        "what is {p} deadline? | when must {s} be done? | what is the deadline of {s}?",
    ),
    _kind(
        "room",
        _digits(3),
        "room",
        "{s} meets in room {v}. | {p} room is number {v}. | the team of {s} works in room {v}.",
        "in which room does {s} meet? | what is {p} room number? | where does the team of {s} work?",
    ),
    _kind(
        "password",
        Sampler.password,
        "password",
        "{p} password is {v}. | the password of {s} is {v}.",
        "what is {p} password? | what is the password of {s}?",
    ),
    _kind(
        "budget",
        Sampler.price,
        "budget",
        "{p} weekly budget is {v}. | {s} may spend each week {v}.",
        "what is {p} weekly budget? | how much may {s} spend each week?",
    ),
)

PARCEL = (
    _kind(
        "goes to",
        Sampler.person,
        "for",
        "{s} is for {v}. | {s} must be given to {v}.",
        "who gets {s}? | who is {s} for?",
    ),
    _kind(
        "shelf",
        _digits(3),
        "shelf",
        "{s} lies on shelf {v}. | look for {s} on shelf {v}.",
        "on which shelf is {s}? | where is {s}?",
    ),
    _kind(
        "weight",
        _number(2, 399),
        "weight in kilos",
        "the weight of {s} in kilos is {v}. | on the scale, {s} shows in kilos {v}.",
        "what is the weight of {s} in kilos? | how many kilos does {s} weigh?",
    ),
)

OBJECT = (
    _kind(
        "code",
        _digits(4),
        "code",
        "{p} code is {v}. | the code of {s} is {v}. | {s} opens with the code {v}.",
        "what is the code of {s}? | which code opens {s}? | {p} code?",
    ),
    _kind(
        "owner",
        Sampler.person,
        "owner",
        "{s} belongs to {v}. | the owner of {s} is {v}.",
        "who owns {s}? | who is the owner of {s}? | whose is {s}?",
    ),
    _kind(
        "town",
        Sampler.place,
        "now in",
        "{s} is now in {v}. | {s} was left in {v}.",
        "where is {s}? | in which town is {s} now?",
    ),
    _kind(
        "number",
        _digits(3),
        "number",
        "{s} has the number {v}. | the number on {s} is {v}.",
        "what number does {s} have? | what is the number on {s}?",
    ),
)

SECRET = (
    _kind(
        "secret",
        lambda sampler: sampler.digits(3 + int(sampler.rng.random() * 4)),
        "value",
        "{s} is {v}. | remember that {s} is {v}.",
        "what is {s}? | tell me {s}.",
    ),
)

SECRET_WORD = (
    _kind("secret", Sampler.word, "value", "{s} is {v}. | remember that {s} is {v}.", "what is {s}? | tell me {s}."),
)


def subject(sampler: Sampler) -> tuple[str, tuple[Kind, ...]]:
    """A new subject and the kinds of facts that can be told about it."""
    draw = sampler.rng.random()
    if draw < 0.66:
        return sampler.person() if sampler.chance(0.8) else sampler.name(), PERSON
    if draw < 0.77:
        return f"the {sampler.pick(words.BUILDINGS)} in {sampler.place()}", BUILDING
    if draw < 0.84:
        return f"project {sampler.name()}", PROJECT
    if draw < 0.92:
        return f"the {sampler.pick(words.COLOURS)} {sampler.pick(words.OBJECTS)}", OBJECT
    if draw < 0.935:
        return sampler.pick(words.SECRETS), SECRET
    if draw < 0.95:
        return sampler.pick(words.SECRET_WORDS), SECRET_WORD
    return f"parcel {sampler.digits(4)}", PARCEL
