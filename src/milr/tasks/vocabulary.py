"""The words of the icon world: GenEval's objects and colours, counts and relations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from milr.types import Relation

OBJECT_NAMES: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote"),
    *("computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""GenEval's 80 names in its order, which is COCO's; the index of a name is the class of GenEval's detector."""
COLORS: tuple[str, ...] = (
    *("red", "orange", "yellow", "green", "blue"),
    *("purple", "pink", "brown", "black", "white"),
)
"""GenEval's ten colours, in its order."""
COUNT_WORDS: Mapping[str, int] = {"one": 1, "two": 2, "three": 3, "four": 4}
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


SAME_OBJECTS: Mapping[str, str] = {
    **dict.fromkeys(("bike", "pushbike", "cycle"), "bicycle"),
    **dict.fromkeys(("automobile", "motorcar"), "car"),
    **dict.fromkeys(("motorbike", "motor bike"), "motorcycle"),
    **dict.fromkeys(("plane", "aeroplane", "aircraft"), "airplane"),
    **dict.fromkeys(("lorry",), "truck"),
    **dict.fromkeys(("traffic signal", "stoplight", "stop light"), "traffic light"),
    **dict.fromkeys(("hydrant",), "fire hydrant"),
    **dict.fromkeys(("stopsign",), "stop sign"),
    **dict.fromkeys(("rucksack", "back pack"), "backpack"),
    **dict.fromkeys(("brolly",), "umbrella"),
    **dict.fromkeys(("purse", "hand bag"), "handbag"),
    **dict.fromkeys(("necktie", "neck tie"), "tie"),
    **dict.fromkeys(("luggage", "suit case"), "suitcase"),
    **dict.fromkeys(("flying disc", "flying disk"), "frisbee"),
    **dict.fromkeys(("pair of skis",), "skis"),
    **dict.fromkeys(("snow board",), "snowboard"),
    **dict.fromkeys(("skate board",), "skateboard"),
    **dict.fromkeys(("surf board",), "surfboard"),
    **dict.fromkeys(("tennis racquet", "racket", "racquet"), "tennis racket"),
    **dict.fromkeys(("wineglass", "glass of wine"), "wine glass"),
    **dict.fromkeys(("bottle of water", "bottle of wine", "water bottle", "wine bottle"), "bottle"),
    **dict.fromkeys(("cup of coffee", "cup of tea", "coffee cup", "tea cup", "teacup"), "cup"),
    **dict.fromkeys(("slice of pizza", "pizza slice"), "pizza"),
    **dict.fromkeys(("piece of cake", "slice of cake"), "cake"),
    **dict.fromkeys(("hotdog",), "hot dog"),
    **dict.fromkeys(("doughnut",), "donut"),
    **dict.fromkeys(("sofa", "settee"), "couch"),
    **dict.fromkeys(("plant", "pot plant", "houseplant", "house plant", "flowerpot", "flower pot"), "potted plant"),
    **dict.fromkeys(("table", "dinner table"), "dining table"),
    **dict.fromkeys(("tv set", "television", "television set", "telly", "t.v"), "tv"),
    **dict.fromkeys(("laptop computer", "notebook computer"), "laptop"),
    **dict.fromkeys(("pc mouse",), "computer mouse"),
    **dict.fromkeys(("remote", "remote control", "tv remote control"), "tv remote"),
    **dict.fromkeys(("keyboard", "pc keyboard"), "computer keyboard"),
    **dict.fromkeys(
        ("phone", "mobile", "mobile phone", "cellphone", "smartphone", "smart phone", "cellular phone", "iphone"),
        "cell phone",
    ),
    **dict.fromkeys(("microwave oven",), "microwave"),
    **dict.fromkeys(("fridge",), "refrigerator"),
    **dict.fromkeys(("washbasin", "wash basin"), "sink"),
    **dict.fromkeys(("pair of scissors", "scissor"), "scissors"),
    **dict.fromkeys(("teddy", "teddybear"), "teddy bear"),
    **dict.fromkeys(("hair dryer", "hairdryer", "hairdrier", "blow dryer"), "hair drier"),
    **dict.fromkeys(("tooth brush",), "toothbrush"),
    **dict.fromkeys(("human", "human being"), "person"),
}
"""Other words for the same object -> GenEval's name."""
NEAR_OBJECTS: Mapping[str, str] = {
    **dict.fromkeys(("man", "woman", "boy", "girl", "child", "kid", "baby", "guy", "lady", "gentleman"), "person"),
    **dict.fromkeys(("adult", "teenager", "toddler"), "person"),
    **dict.fromkeys(("taxi", "cab", "sports car", "jeep", "sedan", "van", "minivan"), "car"),
    **dict.fromkeys(("scooter", "moped"), "motorcycle"),
    **dict.fromkeys(("jet", "airliner", "biplane"), "airplane"),
    **dict.fromkeys(("school bus", "minibus", "coach"), "bus"),
    **dict.fromkeys(("locomotive", "steam train", "tram"), "train"),
    **dict.fromkeys(("pickup", "pickup truck", "fire truck", "fire engine"), "truck"),
    **dict.fromkeys(("ship", "sailboat", "sailing boat", "yacht", "canoe", "ferry"), "boat"),
    **dict.fromkeys(("sparrow", "eagle", "owl", "parrot", "pigeon", "robin", "crow", "seagull"), "bird"),
    **dict.fromkeys(("kitten", "kitty", "tomcat"), "cat"),
    **dict.fromkeys(("puppy", "hound", "poodle", "labrador", "bulldog"), "dog"),
    **dict.fromkeys(("pony", "foal", "stallion"), "horse"),
    **dict.fromkeys(("lamb", "ram"), "sheep"),
    **dict.fromkeys(("bull", "calf", "ox"), "cow"),
    **dict.fromkeys(("polar bear", "grizzly", "grizzly bear", "brown bear"), "bear"),
    **dict.fromkeys(("parasol",), "umbrella"),
    **dict.fromkeys(("bag",), "handbag"),
    **dict.fromkeys(("ball", "football", "soccer ball", "basketball", "tennis ball", "baseball"), "sports ball"),
    **dict.fromkeys(("bat",), "baseball bat"),
    **dict.fromkeys(("glove",), "baseball glove"),
    **dict.fromkeys(("glass", "goblet"), "wine glass"),
    **dict.fromkeys(("mug", "coffee mug"), "cup"),
    **dict.fromkeys(("burger", "hamburger", "cheeseburger", "toast"), "sandwich"),
    **dict.fromkeys(("tangerine", "mandarin"), "orange"),
    **dict.fromkeys(("bagel",), "donut"),
    **dict.fromkeys(("birthday cake", "cupcake"), "cake"),
    **dict.fromkeys(("armchair", "stool", "seat"), "chair"),
    **dict.fromkeys(("desk", "coffee table"), "dining table"),
    **dict.fromkeys(("notebook",), "laptop"),
    **dict.fromkeys(("telephone",), "cell phone"),
    **dict.fromkeys(("stove",), "oven"),
    **dict.fromkeys(("freezer",), "refrigerator"),
    **dict.fromkeys(("watch", "alarm clock", "wall clock", "wristwatch"), "clock"),
    **dict.fromkeys(("teddy toy", "stuffed bear"), "teddy bear"),
}
"""Similar objects -> the name that is drawn instead, with a note."""
ENGLISH_PLURALS: Mapping[str, str] = {
    **{"people": "person", "benches": "bench", "knives": "knife", "sandwiches": "sandwich", "couches": "couch"},
    **{"computer mice": "computer mouse", "toothbrushes": "toothbrush", "pc mice": "computer mouse"},
    **{"men": "man", "women": "woman", "children": "child", "gentlemen": "gentleman", "ladies": "lady"},
    **{"babies": "baby", "puppies": "puppy", "kitties": "kitty", "ponies": "pony", "lorries": "lorry"},
    **{"calves": "calf", "oxen": "ox", "taxis": "taxi", "ferries": "ferry", "glasses of wine": "glass of wine"},
    **{"bottles of water": "bottle of water", "bottles of wine": "bottle of wine", "cups of coffee": "cup of coffee"},
    **{"cups of tea": "cup of tea", "slices of pizza": "slice of pizza", "pieces of cake": "piece of cake"},
    **{"slices of cake": "slice of cake", "pairs of scissors": "pair of scissors", "pairs of skis": "pair of skis"},
}
"""Plurals that GenEval's rule does not make -> the singular, a name or one of the words above."""
NEAR_COLORS: Mapping[str, str] = {
    **dict.fromkeys(("violet", "lilac", "lavender"), "purple"),
    **dict.fromkeys(("scarlet", "crimson"), "red"),
    **dict.fromkeys(("navy", "azure"), "blue"),
}
"""Shades -> the colour that is drawn instead, with a note."""
OTHER_COLORS = _split(
    "gray grey silver gold golden beige turquoise cyan teal magenta maroon indigo ivory cream tan olive lime bronze "
    "copper khaki peach coral"
)
"""Colours that are refused with the list of the ten."""
SAME_RELATIONS: Mapping[str, Relation | Literal["and"]] = {
    **dict.fromkeys((",", "&", "+", "plus", "with", "along with", "together with", "as well as"), "and"),
    **dict.fromkeys(("to the left of", "on the left of", "at the left of", "to left of"), "left of"),
    **dict.fromkeys(("to the left side of", "on the left side of"), "left of"),
    **dict.fromkeys(("to the right of", "on the right of", "at the right of", "to right of"), "right of"),
    **dict.fromkeys(("to the right side of", "on the right side of"), "right of"),
    **dict.fromkeys(("over", "on top of", "atop", "on the top of"), "above"),
    **dict.fromkeys(("under", "underneath", "beneath"), "below"),
}
"""Other words for a relation or "and" -> the grammar's."""
NEAR_RELATIONS: Mapping[str, Relation | Literal["and"]] = {
    **dict.fromkeys(("next to", "beside", "near", "near to", "close to", "by", "alongside", "adjacent to"), "and"),
    **dict.fromkeys(("behind", "in front of", "in", "inside", "inside of", "around", "against", "at", "facing"), "and"),
    **dict.fromkeys(("riding", "holding", "wearing", "eating", "carrying", "using", "watching", "driving"), "and"),
    **dict.fromkeys(("chasing", "playing with", "looking at", "leaning on", "has", "have", "having"), "and"),
    **dict.fromkeys(("on", "upon", "onto"), "above"),
}
"""Words between objects without a rule -> the words they are read as, with a note."""
IGNORED_WORDS = _split(
    "big small large little tiny huge giant tall short long wide thin thick fat slim mini enormous massive "
    "old new young ancient modern antique vintage fresh ripe beautiful nice cute pretty lovely adorable ugly shiny "
    "bright dark light pale vivid vibrant colorful colourful wooden metal metallic plastic leather steel ceramic round "
    "square flat empty full open closed clean dirty soft fluffy furry happy sad angry sleepy smiling friendly cool "
    "funny simple plain fancy striped spotted cold wild tasty delicious sleeping running walking flying jumping "
    "sitting standing lying parked placed resting realistic photorealistic detailed highly sharp cinematic "
    "professional high quality hd 4k 8k hdr 3d cartoon minimalist artistic"
)
"""Words about looks that no rule asks for: left out, with a note."""
NOT_TYPOS = _split(
    "house tree moon star boot coat goat bell bow rain bread lamp wolf deer pear bean pen fox box hen lion rock sock "
    "block lock duck snake shark corn cart card bug food foot flower tower window door sand sheet lemon grape tent "
    "hose nose rose vest base toe pie beer chain hair stair spool brush bush bath bead head goose moose knight monkey "
    "king queen robot dragon castle bridge road river lake sea mountain hill beach forest garden city street room "
    "kitchen wall floor roof sky sun cloud snow fire water grass leaf fish frog pig mouse rat rabbit turtle tiger "
    "chicken turkey spider butterfly bee ant cup plate pan pot knob jar can lid egg cheese milk meat fruit potato "
    "tomato onion pepper hat cap shirt shoe dress skirt ring crown sword gun bomb flag map key coin candle balloon "
    "guitar piano drum violin trumpet camera radio computer printer rocket helicopter tank tractor wagon sled"
)
"""Frequent English words that are never taken for misspellings."""

_ALREADY_PLURAL = frozenset({"skis", "scissors"})


def plural(name: str) -> str:
    """Return the plural of an object name, as GenEval's prompts write it.

    GenEval adds "s", or "es" after an "s" ("buses"), and knows no exceptions ("benchs", "knifes", "sheeps"). Skis and
    scissors, which it never counts, stay as they are.
    """
    if name in _ALREADY_PLURAL:
        return name
    return name + ("es" if name.endswith("s") else "s")


def with_article(words: str) -> str:
    """Return the words after "a" or "an", which depends on the first letter."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def list_words() -> dict[str, dict[str, list[str]]]:
    """Return all words of prompts: kind -> word -> other words that are read as it."""

    def others(word: str, *tables: Mapping[str, str]) -> list[str]:
        return [other for table in tables for other, meant in table.items() if meant == word]

    joiners: tuple[Relation | Literal["and"], ...] = ("and", *RELATIONS)
    return {
        "objects, and words for the same thing": {name: others(name, SAME_OBJECTS) for name in OBJECT_NAMES},
        "objects, and words that are read as them with a note": {
            name: near for name in OBJECT_NAMES if (near := others(name, NEAR_OBJECTS))
        },
        "colours, and shades that are read as them with a note": {
            color: others(color, NEAR_COLORS) for color in COLORS
        },
        "counts": {word: [str(count)] for word, count in COUNT_WORDS.items()},
        "joined by, and words for the same": {joiner: others(joiner, SAME_RELATIONS) for joiner in joiners},
        "joined by, and words that are read as them with a note": {
            joiner: near for joiner in joiners if (near := others(joiner, NEAR_RELATIONS))
        },
        "left out, with a note": {word: [] for word in sorted(IGNORED_WORDS)},
    }


def quote(text: str, longest: int = 120) -> str:
    """Return the text in quotes, on one line, shortened if it is long."""
    return repr(text if len(text) <= longest else text[: longest - 3] + "...")
