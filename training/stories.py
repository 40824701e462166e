"""Plain text: short everyday notes, diary pages and stories, composed sentence by sentence.

The sentences carry made-up names and places but no fact that a question asks for. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from training import words
from training.words import Sampler

ADJECTIVES = tuple(
    "old young small big quiet cheerful tired clever kind lazy brave shy friendly careful hungry happy busy patient "
    "proud gentle".split()
)
ROLES = tuple(
    "baker farmer teacher sailor painter gardener carpenter doctor singer postman cook fisherman tailor student "
    "nurse miller shepherd musician librarian beekeeper".split()
)
THINGS = tuple(
    "basket|lamp|letter|wooden box|blue cup|loaf of bread|map|ladder|bucket of water|bag of apples|warm blanket|"
    "bunch of flowers|broken clock|piece of cheese|pair of shoes|bell|book|key|kite|pot of soup|drum|rope|hat|mirror|"
    "bottle of milk".split("|")
)
SPOTS = tuple(
    "in the kitchen|by the river|near the harbour|at the market|under the old bridge|behind the church|in the garden|"
    "on the hill|at the station|beside the well|in the forest|on the beach|in the small shop|at the edge of the field|"
    "in the library|on the roof|next to the mill|by the gate".split("|")
)
TIMES = tuple(
    "in the morning|after lunch|before breakfast|in the evening|at noon|late at night|after the rain|before sunset|"
    "on a cold day|in early spring|at the end of the summer|during the storm".split("|")
)
WEATHER = tuple(
    "It rained all morning.|The sun was warm and the sky was clear.|A cold wind came from the north.|"
    "Snow lay on the roofs.|Fog covered the river.|It was a calm and bright day.|The clouds were low and grey.|"
    "A light rain fell in the afternoon.|The night was quiet and full of stars.|The air smelled of bread and smoke.|"
    "Thunder rolled over the hills.|The leaves were turning yellow.".split("|")
)
TRANSITIVE = tuple(
    "found|carried|lost|bought|sold|painted|cleaned|repaired|hid|borrowed|brought|dropped|saw|wrapped|wanted".split("|")
)
MOVES = tuple("walked|ran|went|hurried|drove|rode|came back".split("|"))
GOALS = tuple(
    "to the market|to the river|to the harbour|home|to the station|up the hill|to the old mill|into the forest|"
    "to the next village|across the bridge|to the library|down to the beach".split("|")
)
FEELINGS = tuple("happy|tired|surprised|worried|proud|sad|hungry|calm|angry|glad".split("|"))
SAYINGS = tuple(
    "We should go home now.|Please help me.|I have never seen this before.|That is a good idea.|Be careful.|"
    "Wait for me.|I will come back tomorrow.|There is enough for everyone.|Thank you very much.|Do not worry.|"
    "Let us try again.|It is getting late.|I knew you would come.|What a strange day.".split("|")
)
LESSONS_LEARNT = tuple(
    "a small kindness can change a whole day|it is better to ask than to guess|good things take time|"
    "a friend is worth more than gold|nobody is too old to learn|even a small light helps in the dark|"
    "work is easier when it is shared|you find things when you stop looking for them|it is wise to listen first".split(
        "|"
    )
)
PROBLEMS = tuple(
    "the bridge was broken|the well was dry|the lamp in the tower went out|the boat was gone|the bread did not rise|"
    "the clock in the square stopped|a goat ran away|the key was lost|the road was under water|"
    "nobody could open the old door|the wind took the roof of the barn|the letter never arrived".split("|")
)
FIXES = tuple(
    "tied a long rope to the gate|asked the neighbours for help|followed the tracks in the mud|waited until morning|"
    "climbed up with a ladder|read the old book again|made a plan and drew it on paper|lit a fire on the hill|"
    "called all the children of the village|worked through the night".split("|")
)
OUTCOMES = tuple(
    "Soon everything was in order again.|By evening the work was done.|"
    "In the end it was easier than anyone had thought.|At last the problem was gone.|"
    "The next day everyone came to see it.|After that nobody was afraid.".split("|")
)
CHORES = tuple(
    "washed the windows|swept the floor|fed the hens|wrote two letters|baked bread|cut the grass|mended a shirt|"
    "cooked soup|read the newspaper|watered the plants|repaired the fence|sorted the post|cleaned the stove|"
    "counted the chairs|made tea|called the bank|paid the bill|packed a suitcase".split("|")
)
TASKS = tuple(
    "buy milk and eggs|call the plumber|return the books|water the plants|pay the rent|fix the bicycle|"
    "write to the school|clean the kitchen|pick up the parcel|bring the coat to the tailor|order new lamps|"
    "ask about the train|wash the car|send the photos".split("|")
)


def _a(text: str) -> str:
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def _two(sampler: Sampler, items: Sequence[str]) -> str:
    first, second = sampler.rng.sample(items, 2)
    return f"{first} and {second}"


def everyday(sampler: Sampler) -> str:
    """One plain sentence that states no askable fact."""
    pick = sampler.pick
    draw = int(sampler.rng.random() * 12)
    if draw == 0:
        return pick(WEATHER)
    if draw == 1:
        return f"The {pick(ADJECTIVES)} {pick(ROLES)} {pick(TRANSITIVE)} {_a(pick(THINGS))} {pick(SPOTS)}."
    if draw == 2:
        return f"{sampler.name()} {pick(MOVES)} {pick(GOALS)} {pick(TIMES)}."
    if draw == 3:
        return f"{pick(TIMES).capitalize()}, {sampler.name()} {_two(sampler, CHORES)}."
    if draw == 4:
        return f"There was {_a(pick(THINGS))} {pick(SPOTS)}, and nobody knew why."
    if draw == 5:
        return f"Everyone in {sampler.place()} was {pick(FEELINGS)} {pick(TIMES)}."
    if draw == 6:
        return f"The {pick(ROLES)} and the {pick(ROLES)} talked for a long time {pick(SPOTS)}."
    if draw == 7:
        return f"Do not forget to {pick(TASKS)}."
    if draw == 8:
        return f"The road from {sampler.place()} to {sampler.place()} was long, but the view was good."
    if draw == 9:
        return f'"{pick(SAYINGS)}" said the {pick(ROLES)}.'
    if draw == 10:
        return f"{pick(TIMES).capitalize()}, the {pick(ROLES)} {pick(CHORES)}."
    return f"{sampler.name()} {pick(TRANSITIVE)} {_a(pick(THINGS))} and gave it to the {pick(ROLES)}."


def story(sampler: Sampler) -> str:
    """A short story of one or several paragraphs about one hero and one friend."""
    pick, chance = sampler.pick, sampler.chance
    hero, friend, place = sampler.name(), sampler.name(), sampler.place()
    he, him, his = pick((("he", "him", "his"), ("she", "her", "her")))
    upper = he.capitalize()
    role, thing, animal = pick(ROLES), pick(THINGS), pick(words.ANIMALS)
    opening = pick(
        (
            f"Once there was {_a(pick(ADJECTIVES))} {role} named {hero} who lived in {place}.",
            f"Once upon a time, {_a(pick(ADJECTIVES))} {role} called {hero} lived in the village of {place}.",
            f"{hero} was {_a(role)} in {place}, and everyone knew {him}.",
            f"In the town of {place} there lived {_a(role)} named {hero}.",
        )
    )
    first = [opening]
    if chance(0.7):
        first.append(
            pick(
                (
                    f"{upper} had {_a(pick(ADJECTIVES))} {animal} that followed {him} everywhere.",
                    f"{upper} lived in {_a(pick(('old', 'small', 'quiet')))} house with {his} {animal}.",
                    f"Every day {he} {_two(sampler, CHORES)}.",
                    f"{hero} liked to sit {pick(SPOTS)} {pick(TIMES)}.",
                )
            )
        )
    if chance(0.5):
        first.append(pick(WEATHER))
    middle = [
        pick(
            (
                f"One day {pick(PROBLEMS)}.",
                f"One {pick(words.WEEKDAYS)}, {hero} heard that {pick(PROBLEMS)}.",
                f"Then, {pick(TIMES)}, {pick(PROBLEMS)}.",
            )
        )
    ]
    middle.append(f"{hero} was {pick(FEELINGS)} and {pick(MOVES)} {pick(GOALS)}.")
    middle.append(f"There {he} met {friend}, {_a(pick(ADJECTIVES))} {pick(ROLES)}.")
    for _ in range(int(sampler.rng.random() * 4)):
        events = (
            f'"{pick(SAYINGS)}" said {friend}.',
            f'{hero} said, "{pick(SAYINGS)}"',
            f"{hero} {pick(TRANSITIVE)} {_a(thing)} {pick(SPOTS)}.",
            f"{upper} {pick(FIXES)}, but it did not help.",
            f"The {animal} {pick(MOVES)} {pick(GOALS)}.",
            f"{friend} gave {him} {_a(pick(THINGS))}.",
        )
        middle.append(pick(events))
    last = [
        pick(
            (f"Together they {pick(FIXES)}.", f"So {hero} {pick(FIXES)}.", f"Then {friend} and {hero} {pick(FIXES)}.")
        ),
        pick(OUTCOMES),
    ]
    if chance(0.6):
        last.append(
            pick(
                (
                    f"From that day on, {hero} and {friend} were friends.",
                    f"{hero} {pick(MOVES)} home and was {pick(FEELINGS)}.",
                    f"{hero} learned that {pick(LESSONS_LEARNT)}.",
                    f"The people of {place} still tell this story.",
                )
            )
        )
    joint = "\n\n" if chance(0.4) else " "
    return joint.join(" ".join(part) for part in (first, middle, last))


def note(sampler: Sampler) -> str:
    """A short everyday note, diary page or letter."""
    pick = sampler.pick
    draw = int(sampler.rng.random() * 4)
    if draw == 0:
        day, who = pick(words.WEEKDAYS), sampler.name()
        return (
            f"{day}. {pick(WEATHER)} I {_two(sampler, CHORES)}. In the evening {who} came and we {pick(CHORES)}"
            f" together. I was {pick(FEELINGS)}. Tomorrow I must {pick(TASKS)}."
        )
    if draw == 1:
        return "To do:\n" + "\n".join(
            f"- {task}" for task in sampler.rng.sample(TASKS, 3 + int(sampler.rng.random() * 3))
        )
    if draw == 2:
        who, sender = sampler.name(), sampler.name()
        return (
            f"Dear {who},\n\nthank you for the {pick(THINGS)}. {pick(WEATHER)} I {pick(CHORES)} and thought of you. "
            f"Please {pick(TASKS)} when you are in {sampler.place()}.\n\nYours,\n{sender}"
        )
    return " ".join(everyday(sampler) for _ in range(3 + int(sampler.rng.random() * 6)))


def plain(sampler: Sampler) -> str:
    """A piece of plain text of any of the forms above."""
    return story(sampler) if sampler.chance(0.65) else note(sampler)
