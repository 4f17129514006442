"""The words of the generated arithmetic problems: sentences with places for names and numbers.

Places: {name} and {other} people, {objects} things that are counted, {n} the number of a sentence.
"""

NAMES = (
    *("Ada", "Ben", "Carla", "Dev", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jamal", "Kim"),
    *("Liam", "Mona", "Noah", "Olga", "Pablo", "Quinn", "Rosa", "Sam", "Tara", "Umar", "Vera"),
    *("Will", "Yara"),
)

OBJECTS = (
    *("apples", "books", "buttons", "candles", "cards", "clips", "coins", "cookies", "eggs"),
    *("flowers", "keys", "marbles", "mugs", "pears", "pencils", "photos", "plums", "ribbons"),
    *("shells", "stamps", "stickers", "stones", "tickets", "toys"),
)

# How many there are at first.
OPENINGS = (
    "{name} has {n} {objects}.",
    "There are {n} {objects} on the table of {name}.",
    "{name} starts the day with {n} {objects}.",
    "In the box of {name} are {n} {objects}.",
    "{name} owns {n} {objects}.",
    "{other} leaves {name} {n} {objects}.",
)

# What happens to them: operation -> sentences.
EVENTS = {
    "+": (
        "{name} buys {n} more {objects}.",
        "{other} gives {name} {n} {objects}.",
        "{name} finds {n} {objects} in the park.",
        "{name} wins {n} {objects} in a game.",
        "Then {n} more {objects} come in the mail for {name}.",
        "{name} makes {n} more {objects}.",
    ),
    "-": (
        "{name} gives {n} {objects} to {other}.",
        "{name} loses {n} of the {objects}.",
        "{name} sells {n} {objects} at the market.",
        "{other} takes {n} of the {objects}.",
        "{name} throws away {n} old {objects}.",
        "Then {n} of the {objects} break.",
    ),
    "*": (
        "After a lucky week {name} has {n} times as many {objects}.",
        "{other} makes it {n} times as many {objects}.",
        "A year later {name} has {n} times as many {objects}.",
        "{name} trades them for {n} times as many {objects}.",
    ),
    "/": (
        "{name} puts the {objects} into {n} equal bags and keeps one bag.",
        "{name} shares the {objects} equally among {n} people and keeps one share.",
        "The {objects} are split into {n} equal piles, and {name} takes one pile.",
        "{name} keeps one of every {n} {objects}.",
    ),
}

# The line of the solution for each operation; {sum} is the calculation with its annotation.
RATIONALES = {
    "+": ("{name} then has {sum} {objects}.", "That makes {sum} {objects}."),
    "-": ("{name} has {sum} {objects} left.", "There are {sum} {objects} left."),
    "*": ("{name} then has {sum} {objects}.", "That is {sum} {objects}."),
    "/": ("{name} keeps {sum} {objects}.", "One part is {sum} {objects}."),
}

QUESTIONS = (
    "How many {objects} does {name} have now?",
    "How many {objects} does {name} have in the end?",
    "What is the number of {objects} that {name} has now?",
    "With how many {objects} does {name} end up?",
)
