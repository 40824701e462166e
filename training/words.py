"""Word lists and the sampler of made-up names and values, with the train / held-out split.

Every name and every value is composed at random (syllables, digits, pairs of words). A CRC of the written form decides
its side of the split, so a held-out name or value can never be drawn while training text is made. Knows nothing of
sentences or of tokens.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

Split = Literal["train", "heldout"]
T = TypeVar("T")

HELDOUT_ONE_IN = 8

ONSETS = (
    *"b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z".split(),
    *"b d f g h k l l m m n n p r r s s t t v".split(),
)
VOWELS = tuple("a e i o u a e i o u a e i o a e i o ai ea ee ia io oa ou".split())
CODAS = ("", "", "", "", *"n n r r l s m nd rt lk x v th ck sk ll nt ne re le".split())
PLACE_ENDINGS = tuple(
    "ford wick mere ton holm by dale stead haven bridge ness gate moor field port combe well cross".split()
)
MONTHS = tuple("January February March April May June July August September October November December".split())
WEEKDAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
SHADES = tuple("pale dark bright deep dusty warm soft light cool faded glossy misty".split())
COLOURS = tuple(
    "red blue green yellow orange purple brown grey white black pink silver golden violet turquoise cream".split()
)
TRADES = tuple(
    "boat bridge clock garden glass harbour kite lamp leather piano roof rope shoe stone tower train tile violin well "
    "window wool".split()
)
WORKERS = tuple("mender painter maker seller cleaner designer inspector keeper trader driver teacher builder".split())
ANIMALS = tuple("dog cat parrot pony rabbit goat hamster turtle donkey goose".split())
RELATIVES = tuple(
    "sister brother neighbour colleague teacher boss aunt uncle cousin dentist doctor gardener landlord".split()
)
BELONGINGS = tuple("bicycle coat umbrella scarf boat kettle suitcase tent van sofa hat blanket canoe wardrobe".split())
GOODS = tuple("lamp carpet mirror table clock guitar camera jacket bench stove saddle tent radio vase".split())
STORES = tuple(
    "jars of honey|candles|baskets of apples|bags of flour|postcards|bottles of ink|boxes of nails|old coins|"
    "spoons|paintings|chairs|bricks|ropes|blankets".split("|")
)
LESSONS = tuple("piano lesson|swimming class|dentist appointment|job interview|dance class|haircut|train".split("|"))
BUILDINGS = tuple(
    "bakery library museum school mill market theatre hotel station pharmacy church harbour office garden".split()
)

GIVEN_NAMES = tuple(
    "Alice Anna Ben Carl Clara David Ella Emma Eva Felix Finn George Grace Hanna Henry Ida Ivan Jack James Jane John "
    "Julia Karl Laura Leo Lily Lucas Lucy Maria Mark Mary Max Mia Mike Nina Noah Olga Oscar Otto Paul Peter Rosa Sam "
    "Sara Sofia Tim Tom Vera Zoe".split()
)
"""Ordinary names, for the train side alone: a reader's own prompts will hold such."""
CITIES = tuple(
    "Athens Berlin Boston Cairo Dublin Lima Lisbon London Madrid Milan Oslo Paris Porto Prague Rome Sydney Tokyo Turin "
    "Vienna York".split()
)
LOCKED = tuple("safe|garage|alarm|bike lock|gate|cellar|office|mailbox|suitcase|phone".split("|"))
OBJECTS = tuple("box|door|chest|key|bag|bottle|boat|car|folder|cupboard|trunk|crate|lamp|book|tin|barrel".split("|"))
SECRETS = tuple(
    "the secret number|the magic number|the access code|the code of the vault|the secret code|the master code|"
    "the order number|the ticket number|the room number|the PIN".split("|")
)
SECRET_WORDS = tuple(
    "the secret word|the magic word|the password|the wifi password|the code word|the name of the ship|"
    "the name of the village|the name of the winner|the name of the king|the name of the bear".split("|")
)


def is_held_out(text: str) -> bool:
    """Tell whether a name or value belongs to the held-out side of the split."""
    return zlib.crc32(b"notes/" + text.lower().encode()) % HELDOUT_ONE_IN == 0


class Sampler:
    """Draws names and values of one side of the split from a seeded generator."""

    def __init__(self, seed: int | str, split: Split) -> None:
        self.rng = random.Random(seed)
        self.split: Split = split

    def of_split(self, draw: Callable[[], str]) -> str:
        """Draw until the result lies on this sampler's side of the split."""
        wanted = self.split == "heldout"
        while True:
            text = draw()
            if is_held_out(text) == wanted:
                return text

    def pick(self, items: Sequence[T]) -> T:
        """One item, uniformly."""
        return items[int(self.rng.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def _syllables(self, count: int) -> str:
        pick = self.pick
        first = "" if self.chance(0.12) else pick(ONSETS)
        middle = "".join(
            pick(VOWELS) + (pick("nrlsm") if self.chance(0.25) else "") + pick(ONSETS) for _ in range(count - 1)
        )
        return first + middle + pick(VOWELS) + pick(CODAS)

    def word(self) -> str:
        """A made-up lower-case word of two or three syllables."""
        return self.of_split(lambda: self._syllables(2 if self.chance(0.75) else 3))

    def name(self) -> str:
        """A single name, made up; on the train side a few are ordinary names."""
        if self.split == "train" and self.chance(0.04):
            return self.pick(GIVEN_NAMES)
        return self.word().capitalize()

    def person(self) -> str:
        """A full name, made up; on the train side one in eight begins with an ordinary name."""
        if self.split == "train" and self.chance(0.12):
            return f"{self.pick(GIVEN_NAMES)} {self.name()}"
        return f"{self.name()} {self.name()}"

    def place(self) -> str:
        """A place, made up; on the train side a few are ordinary cities."""
        if self.split == "train" and self.chance(0.06):
            return self.pick(CITIES)
        return self.of_split(
            lambda: (self._syllables(1 if self.chance(0.6) else 2) + self.pick(PLACE_ENDINGS)).capitalize()
        )

    def number(self, low: int, high: int) -> str:
        """A whole number between low and high, both included."""
        return self.of_split(lambda: str(low + int(self.rng.random() * (high - low + 1))))

    def digits(self, count: int) -> str:
        """A string of random digits."""
        return self.of_split(lambda: str(int(self.rng.random() * 10**count)).zfill(count))

    def phone(self) -> str:
        """A phone number such as 417-2958; one in ten is written in pairs, such as 041 72 95 86."""
        if self.chance(0.1):
            return self.of_split(lambda: f"{self.digits(3)} {self.digits(2)} {self.digits(2)} {self.digits(2)}")
        return self.of_split(lambda: f"{self.digits(3)}-{self.digits(4)}")

    def clock(self) -> str:
        """A time of day such as 16:45."""
        return self.of_split(lambda: f"{int(self.rng.random() * 24):02d}:{int(self.rng.random() * 60):02d}")

    def date(self) -> str:
        """A day of the year such as 14 March."""
        return self.of_split(lambda: f"{1 + int(self.rng.random() * 28)} {self.pick(MONTHS)}")

    def price(self) -> str:
        """A price such as 14.75 euros."""
        coin = "dollars" if self.chance(0.2) else "euros"
        return self.of_split(lambda: f"{1 + int(self.rng.random() * 99)}.{int(self.rng.random() * 100):02d} {coin}")

    def colour(self) -> str:
        """A shade such as pale green."""
        return self.of_split(lambda: f"{self.pick(SHADES)} {self.pick(COLOURS)}")

    def job(self) -> str:
        """A trade such as boat mender."""
        return self.of_split(lambda: f"{self.pick(TRADES)} {self.pick(WORKERS)}")

    def password(self) -> str:
        """A password such as brusk47."""
        return self.of_split(lambda: f"{self.word()}{int(self.rng.random() * 100):02d}")
