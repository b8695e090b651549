"""Classes and settings of the prompt tests."""

from syncclip.synthesis.prompts.settings import PromptSettings

CLASSES = ("cat", "dog", "fir tree")

EVERYTHING = PromptSettings.model_validate(
    {
        "strategies": [
            {"name": "template", "weight": 3, "templates": ["a photo of a {}.", "a {}"]},
            {
                "name": "combinations",
                "weight": 2,
                "sentence": "a {looks} {} {place}",
                "lists": {"looks": ["red", "old"], "place": ["in the rain", "at night", "on a table"]},
            },
            {"name": "descriptions", "sentences": {name: [f"one {name}", "another {}"] for name in CLASSES}},
            {"name": "captions", "sentences": {name: [f"{name} in the sun"] for name in CLASSES}, "sha256": "0123"},
        ],
        "classes": {"dog": ["a {} of one's own"]},
    }
)
