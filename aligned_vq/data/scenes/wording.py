"""Templates of questions: `$1` and `$2` are objects, `$d`, `$a` and `$b` are directions."""

from __future__ import annotations

SYNONYMS = {
    "large": ("big", "large"),
    "small": ("little", "tiny", "small"),
    "object": ("thing", "shape", "object"),
    "objects": ("things", "shapes", "objects"),
    "picture": ("image", "photo", "scene"),
    # Texts are split at spaces only, so punctuation stays with its word.
    "picture?": ("image?", "photo?", "scene?"),
}
COLOUR = (
    "What colour is the $1?",
    "What is the colour of the $1?",
    "Which colour does the $1 have?",
    "Tell me the colour of the $1.",
    "The $1 is what colour?",
    "Can you tell what colour the $1 is?",
    "In the picture what colour is the $1?",
)
SHAPE = (
    "What shape is the $1?",
    "What is the shape of the $1?",
    "Which shape does the $1 have?",
    "What kind of shape is the $1?",
    "Tell me the shape of the $1.",
    "What is the $1?",
)
COUNT = (
    "How many $1 are there?",
    "How many $1 are in the picture?",
    "Count the $1.",
    "What is the number of $1?",
    "How many $1 do you see?",
    "How many $1 can you see in the picture?",
)
EXISTENCE = (
    "Is there $1?",
    "Is there $1 in the picture?",
    "Do you see $1?",
    "Can you see $1 in the picture?",
    "Does the picture show $1?",
    "Does the picture contain $1?",
)
SIZE_OF = (
    "Is the $1 large or small?",
    "Is the $1 small or large?",
    "What size is the $1?",
    "How large is the $1?",
)
SAME_SIZE = (
    "Are the $1 and the $2 the same size?",
    "Is the $1 the same size as the $2?",
    "Is the $1 as large as the $2?",
    "Do the $1 and the $2 have the same size?",
)
LARGER = (
    "Is the $1 larger than the $2?",
    "Is the $1 bigger than the $2?",
    "Would you say the $1 is larger than the $2?",
)
SMALLER = (
    "Is the $1 smaller than the $2?",
    "Would you say the $1 is smaller than the $2?",
)
WHICH_LARGER = (
    "Which is larger, the $1 or the $2?",
    "Which is bigger, the $1 or the $2?",
    "What is larger: the $1 or the $2?",
)
WHICH_SMALLER = (
    "Which is smaller, the $1 or the $2?",
    "What is smaller: the $1 or the $2?",
)
RELATION = (
    "Is the $1 $d the $2?",
    "Is the $1 $d the $2 in the picture?",
    "Do you see the $1 $d the $2?",
    "Would you say the $1 is $d the $2?",
)
SIDE_H = (
    "Is the $1 to the $a or to the $b of the $2?",
    "Is the $1 on the $a or the $b of the $2?",
)
SIDE_V = (
    "Is the $1 $a or $b the $2?",
    "Where is the $1, $a or $b the $2?",
)
DIRECTIONS = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
DESCRIBE = (
    "Describe the picture.",
    "Describe the image.",
    "What do you see?",
    "What is in the picture?",
    "What does the picture show?",
    "Tell me what you see in the image.",
    "Please describe the scene.",
    "Give a description of the picture.",
)
