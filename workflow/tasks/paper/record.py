"""ReCoRD: which entity, put into the query, the passage supports."""

import re
import string
from typing import Any


def process_docs(dataset: Any) -> Any:
    """Entities and answers, each once and sorted; they are repeated as often as the passage names them."""
    return dataset.map(lambda doc: {key: sorted(set(doc[key])) for key in ("entities", "answers")})


def doc_to_text(doc: dict[str, Any]) -> str:
    """The passage, and its highlights as a list that the query continues."""
    text, *highlights = doc["passage"].strip().split("\n@highlight\n")
    return text + "\n\n" + "".join(f"  - {highlight}.\n" for highlight in highlights)


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    """The query with each entity in turn."""
    return [_filled(doc, entity) for entity in doc["entities"]]


def doc_to_target(doc: dict[str, Any]) -> list[int]:
    """Numbers of the entities that equal an answer after SQuAD's normalisation, which is how ReCoRD is judged."""
    answers = {normalised(answer) for answer in doc["answers"]}
    return [number for number, entity in enumerate(doc["entities"]) if normalised(entity) in answers]


def first_answer(doc: dict[str, Any]) -> str:
    """What a shot shows: the query with the first answer as the data set spells it, be it among the entities or not."""
    return _filled(doc, doc["answers"][0])


def normalised(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _filled(doc: dict[str, Any], entity: str) -> str:
    return f"  - {doc['query']}".replace("@placeholder", entity)
