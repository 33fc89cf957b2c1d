"""Laws of the names and aliases that ship, and of files of one's own: `pytest tests/test_class_names.py`.

Every name and every alias means exactly its class; nothing else is right: no part of a name, no two names.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from visual_rft.class_names import ClassNames, check_aliases, merged, read_names
from visual_rft.parsing import canonical_name, normalised_name
from visual_rft.rewards import strict
from visual_rft.vocabulary import ClassTruth

COUNTS = {"flowers102": 102, "pets37": 37, "aircraft": 100, "cars196": 196}
SETS = {name: read_names(f"embedded:{name}") for name in COUNTS}
each_set = pytest.mark.parametrize("of", SETS.values(), ids=SETS)


def right(said: str, true: str, of: ClassNames) -> bool:
    return strict.classification(f"<think>x</think><answer>{said}</answer>", ClassTruth(true), aliases=of.aliases).parts["accuracy"] == 1


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_its_classes(name: str) -> None:
    assert len(SETS[name].names) == COUNTS[name] and SETS[name].source and SETS[name].aliases


@each_set
def test_every_name_and_alias_means_exactly_its_class(of: ClassNames) -> None:
    """A name is right for itself and wrong for every other; so is an alias for its class, and it is needed."""
    meant = {name: canonical_name(name, of.aliases) for name in of.names}
    assert len(set(meant.values())) == len(of.names)
    for alias, name in of.aliases.items():
        assert canonical_name(alias, of.aliases) == meant[name]
        assert normalised_name(alias) not in {normalised_name(one) for one in of.names}
    rng = random.Random(0)
    for said, true in [*((name, name) for name in of.names), *of.aliases.items()]:
        assert right(said, true, of) and right(f" {said.upper().replace(' ', '_')}. ", true, of)
        assert not right(said, rng.choice([other for other in of.names if other != true]), of)


@each_set
def test_no_answer_that_says_two_classes_is_right(of: ClassNames) -> None:
    rng = random.Random(1)
    for _ in range(60):
        one, two = rng.sample(of.names, 2)
        for between in (" or ", ", ", " and ", "/", " ", "; "):
            assert not right(f"{one}{between}{two}", one, of) and not right(f"{one}{between}{two}", two, of)


@each_set
def test_no_part_of_a_name_and_nothing_around_it_is_right(of: ClassNames) -> None:
    """But where that is a name itself: "marigold" is right for itself, and wrong for "english marigold"."""
    known = {normalised_name(name) for name in [*of.names, *of.aliases]}
    for name in of.names:
        words = normalised_name(name).split()
        for part in (" ".join(words[1:]), " ".join(words[:-1]), name[:-1], name[1:], f"a {name}", f"{name} 1", f"not {name}", f"the {name} here"):
            if part and normalised_name(part) not in known:
                assert not right(part, name, of), part


def test_known_ambiguities_are_no_aliases() -> None:
    def all_of(name: str) -> set[str]:
        return {normalised_name(one) for one in [*SETS[name].names, *SETS[name].aliases]}

    assert not {"african daisy", "anemone", "lily", "orchid", "iris", "dahlia", "primrose"} & all_of("flowers102")
    assert not {"terrier", "spaniel", "cocker spaniel", "bulldog", "cat", "dog"} & all_of("pets37")
    assert not {"boeing 747", "747", "airbus a330", "boeing 737", "fokker", "dash 8", "f 16", "cessna"} & all_of("aircraft")
    assert not {"audi s4 sedan", "dodge durango suv"} & all_of("cars196")


def test_by_hand() -> None:
    assert right("datura", "thorn apple", SETS["flowers102"]) and right("Black Eyed Susan", "black-eyed susan", SETS["flowers102"])
    assert not right("marigold", "english marigold", SETS["flowers102"]) and right("Pot Marigold", "english marigold", SETS["flowers102"])
    assert right("German Shorthaired Pointer", "german_shorthaired", SETS["pets37"]) and right("american bulldog", "american_bulldog", SETS["pets37"])
    assert right("Boeing 747-400", "747-400", SETS["aircraft"]) and not right("Boeing 747-400", "747-300", SETS["aircraft"])
    assert right("2000 AM General Hummer SUV", "AM General Hummer SUV 2000", SETS["cars196"])
    assert not right("2007 Audi S4 Sedan", "Audi S4 Sedan 2012", SETS["cars196"])
    assert (SETS["flowers102"].names[0], SETS["flowers102"].names[101]) == ("pink primrose", "blackberry lily")
    assert (SETS["cars196"].names[0], SETS["cars196"].names[195]) == ("AM General Hummer SUV 2000", "smart fortwo Convertible 2012")


def test_the_years_of_cars_may_come_first() -> None:
    for name in SETS["cars196"].names:
        *rest, year = name.split()
        assert right(f"{year} {' '.join(rest)}", name, SETS["cars196"])


# Files of one's own

OWN: dict[str, Any] = {"source": "me", "names": ["penny bun", "fly agaric"], "aliases": {"cep": "Penny Bun"}}


def a_file(folder: Path, **changes: Any) -> str:
    (folder / "names.json").write_text(json.dumps(OWN | changes))
    return str(folder / "names.json")


def test_a_file_of_ones_own_is_read_as_it_is_written(tmp_path: Path) -> None:
    assert read_names(a_file(tmp_path)) == ClassNames("me", ("penny bun", "fly agaric"), {"cep": "penny bun"})


def test_explicit_aliases_win() -> None:
    both = merged({"Cep": "fly agaric"}, {"cep": "penny bun", "porcino": "penny bun"})
    assert both == {"porcino": "penny bun", "Cep": "fly agaric"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": []}, "no names"),
        ({"names": ["a", "A"]}, "'a' is there twice"),
        ({"names": ["a", "a"]}, "'a' is there twice"),
        ({"names": ["a", ""]}, "names, number 2: '' is no name that an answer can say"),
        ({"names": ["a", "x" * 81]}, "number 2: .* is no name that an answer can say"),
        ({"names": ["<b>"]}, "number 1: '<b>' is no name"),
        ({"names": [1]}, "number 1: 1 is no name"),
        ({"names": "ab"}, "not of the form"),
        ({"aliases": []}, "not of the form"),
        ({"more": 1}, "not of the form"),
        ({"aliases": {"cep": "boletus"}}, "alias 'cep' is given to 'boletus', which is no class"),
        ({"aliases": {"cep": 3}}, "alias 'cep' is given to 3, which is no class"),
        ({"aliases": {"": "penny bun"}}, "alias '' is no name"),
        ({"aliases": {"Fly_Agaric": "penny bun"}}, "alias 'Fly_Agaric' of 'penny bun' is the name of another class"),
        ({"aliases": {"cep": "penny bun", "CEP": "fly agaric"}}, "alias 'CEP' is given to two classes"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        read_names(a_file(tmp_path, **changes))
    assert str(refusal.value).startswith(str(tmp_path)) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: "embedded:flowers", "embedded:flowers: No such file.*one of embedded:aircraft, embedded:cars196, embedded:flowers102"),
        (lambda folder: str(folder / "none.json"), "none.json: No such file"),
        (lambda folder: _written(folder, b"{"), "not JSON"),
        (lambda folder: _written(folder, b"\xff"), "not JSON in UTF-8"),
        (lambda folder: _written(folder, b"[" * 100_000), "not JSON"),
        (lambda folder: _written(folder, b"[]"), "not of the form"),
    ],
)
def test_no_file_of_names_is_refused(tmp_path: Path, make: Callable[[Path], str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        read_names(make(tmp_path))
    assert "\n" not in str(refusal.value)


def _written(folder: Path, content: bytes) -> str:
    (folder / "x.json").write_bytes(content)
    return str(folder / "x.json")


def test_an_alias_that_says_its_own_class_again_is_taken() -> None:
    check_aliases("task.aliases", ["penny bun"], {"Penny_Bun": "penny bun"})
