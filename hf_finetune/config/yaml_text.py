"""Reads a configuration's YAML strictly, with the line of each key, and writes it.

First half of `config`: what comes out is plain values and the faults so far; `check` does
the rest.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hf_finetune.config.source import KeyPath, Place, Source, dotted
from hf_finetune.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_MERGE = f"{_TAG}merge"
# How plain scalars are read: YAML 1.2's rules, so that `2e-5` is a number while `no`, `010`, `1:30`
# and `2024-01-01` stay text, as people mean them.
_FORMS: dict[str, tuple[re.Pattern[str], str]] = {
    f"{_TAG}null": (re.compile(r"(?:~|null|Null|NULL|)$"), "~nN"),
    f"{_TAG}bool": (re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    f"{_TAG}int": (re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)$"), "-+0123456789"),
    f"{_TAG}float": (
        re.compile(
            rf"[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?"
            rf"|{_DIGITS}[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
        ),
        "-+.0123456789",
    ),
    _MERGE: (re.compile(r"<<$"), "<"),
}
_MOST_NODES = 100_000
REFUSED = object()


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with this module's reading of plain scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this module's reader or PyYAML's own would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal values out each time: anchors are for people."""
        return True


for _tag, (_form, _starts) in _FORMS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, _form, [*_starts, ""] if "null" in _tag else [*_starts])
_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(f"{_TAG}seq", items, flow_style=True),
)


class NotYamlError(Exception):
    """Text that is no YAML at all; nothing more can be said of it. Line 0 stands for all of it."""

    def __init__(self, line: int, text: str) -> None:
        self.line, self.text = line, text


class Reader:
    """Turns YAML nodes into plain values and notes places and faults in a source."""

    def __init__(self, source: Source, at: Callable[[int], Place]) -> None:
        self.source, self.at, self.nodes = source, at, 0

    def read(self, text: str, path: KeyPath) -> Any:
        """Values of a YAML text; `path` is where they belong."""
        try:
            node = yaml.compose(text, Loader=_Loader)
            return None if node is None else self.value(node, path)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise NotYamlError(line, f"the character #x{error.character:02x} isn't text") from None
        except yaml.MarkedYAMLError as error:
            raise _not_yaml(error) from None
        except RecursionError:
            raise NotYamlError(0, "nested too deeply, or an anchor that holds itself") from None

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """A node's value, or `REFUSED` where a fault was noted."""
        self._count()
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            items = []
            for number, item in enumerate(node.value):
                self.source.places[*path, number] = self.at(_line(item))
                items.append(self.value(item, (*path, number)))
            return REFUSED if any(item is REFUSED for item in items) else items
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        return self._refuse(path, node, f"the tag '{_short(node.tag)}' isn't allowed. Leave it out")

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        if node.tag == f"{_TAG}str":
            return text
        if node.tag not in _FORMS or node.tag == _MERGE or not _FORMS[node.tag][0].match(text):
            return self._refuse(
                path, node, f"{text!r} can't have the tag '{_short(node.tag)}'. Leave the tag out"
            )
        if node.tag == f"{_TAG}null":
            return None
        if node.tag == f"{_TAG}bool":
            return text.lower() == "true"
        try:
            # `.inf` and `.nan` are YAML's spelling, which float() doesn't read: refused either way.
            number = int(text) if node.tag == f"{_TAG}int" else float(text)
            if math.isfinite(number):
                return number
        except (ValueError, OverflowError):
            pass
        return self._refuse(path, node, f"{text[:20]!r} isn't a finite number. Write a finite one")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values = {}
        for key, (line, value_node) in self._pairs(node, path).items():
            self.source.places[*path, key] = self.at(line)
            value = self.value(value_node, (*path, key))
            if value is not REFUSED:
                values[key] = value
        return values

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, tuple[int, yaml.Node]]:
        """Line and value node of each key; keys merged in with `<<` give way to the others."""
        self._count()
        merged: dict[str, tuple[int, yaml.Node]] = {}
        own: dict[str, tuple[int, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for key, pair in self._merged(value_node, path):
                    merged.setdefault(key, pair)
                continue
            if not isinstance(key_node, yaml.ScalarNode) or not _plain_tag(key_node.tag):
                self._refuse(path, key_node, "a key must be plain text")
                continue
            key, line = key_node.value, _line(key_node)
            if key in own:
                place = self.at(line)
                name = dotted((*path, key))
                text = f"{name!r} is given twice, first in line {own[key][0]}. Keep one."
                self.source.problem((*path, key), text, place)
                continue
            own[key] = (line, value_node)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: KeyPath) -> list[tuple[str, tuple[int, yaml.Node]]]:
        pairs: list[tuple[str, tuple[int, yaml.Node]]] = []
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(part, yaml.MappingNode):
                pairs += self._pairs(part, path).items()
            else:
                self._refuse(path, part, "'<<' takes a section or a list of sections")
        return pairs

    def _refuse(self, path: KeyPath, node: yaml.Node, text: str) -> object:
        where = f"{dotted(path)}: " if path else ""
        self.source.problem(path, f"{where}{text}.", self.at(_line(node)))
        return REFUSED

    def _count(self) -> None:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise NotYamlError(0, f"more than {_MOST_NODES} values once anchors are written out")


def ends_in_comment(text: str) -> bool:
    """Whether a `#` in the text of a value begins a comment, which reading leaves out."""
    marks = ((token.start_mark.index, token.end_mark.index) for token in yaml.scan(text, _Loader))
    end = max((end for start, end in marks if end > start), default=0)
    return text[end:].lstrip().startswith("#")


def read_file(path: Path) -> str:
    """Text of a configuration file.

    Raises:
        ConfigError: It is missing (the nearest one there is named), a folder, or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file. {_near_file(path)}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}."]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        text = f"byte 0x{error.object[error.start]:02x} isn't UTF-8. Save the file as UTF-8."
        raise ConfigError([f"{path}:{line}: {text}"]) from None


def read_yaml(text: str, where: str) -> Source:
    """Reads a configuration's text.

    Args:
        text: YAML with a section or value for each key at the top.
        where: The file, or another name, for messages.

    Raises:
        ConfigError: The text isn't YAML, is empty or has no keys at the top. Other faults (keys
            given twice, tags, numbers that aren't finite) are noted in the source.
    """
    source = Source(where)
    try:
        tree = Reader(source, lambda line: Place(line, f"{where}:{line}")).read(text, ())
    except NotYamlError as fault:
        place = f"{where}:{fault.line}" if fault.line else where
        raise ConfigError([f"{place}: not valid YAML: {fault.text}."]) from None
    if tree is None:
        text = f"{where}: is empty. It needs at least a 'data' and a 'model' section."
        raise ConfigError([text])
    if tree is REFUSED:
        source.raise_problems()
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else "a single value"
        raise ConfigError([f"{where}:1: must hold 'key: value' lines, got {kind}."])
    source.tree = tree
    return source


def write_yaml(tree: dict[str, Any]) -> str:
    """YAML of plain values that reads back as the same values, lists in one line each."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _not_yaml(error: yaml.MarkedYAMLError) -> NotYamlError:
    mark = error.problem_mark or error.context_mark
    problem = " ".join((error.problem or error.context or "unreadable").split())
    if "'\\t'" in problem:
        problem = "a tab stands where YAML takes spaces only"
    elif "expected a single document" in (error.context or ""):
        problem = "a second document begins ('---'); a configuration is one"
    elif error.context and error.context_mark and mark and error.context_mark.line < mark.line:
        problem = f"{problem} ({error.context} begun in line {error.context_mark.line + 1})"
    return NotYamlError(0 if mark is None else mark.line + 1, problem)


def _near_file(path: Path) -> str:
    if path.name and not path.parent.is_dir():
        return f"There is no folder {str(path.parent)!r} either."
    folders = dict.fromkeys([path.parent, Path("configs")])
    files = [file for folder in folders for file in sorted(folder.glob("*.y*ml"))]
    names = [file.name for file in files]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {str(files[names.index(close[0])])!r}?"
    listed = ", ".join(str(file) for file in files[:10]) or "no YAML file"
    return f"There is: {listed}."


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _plain_tag(tag: str) -> bool:
    return tag == f"{_TAG}str" or tag in _FORMS
