"""The section `hub` of a configuration."""

from __future__ import annotations

import pytest

from hf_finetune.config import config_from, dump_config, parse_config
from hf_finetune.errors import ConfigError
from hf_finetune.hub import HubOptions, describe_hub

LEAST = {"data": {"name": "corrupt_mnist"}, "model": {"name": "cnn"}}


def problem_of(**hub: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from({**LEAST, "hub": hub})
    (problem,) = caught.value.problems
    return problem


def test_nothing_is_pushed_by_default():
    assert config_from(LEAST).hub.repo_id is None
    assert describe_hub(config_from(LEAST).hub) is None


@pytest.mark.parametrize(
    ("hub", "told"),
    [
        ({"revision": "main"}, "me/x, private if new, at the end"),
        (
            {"private": False, "when": "best"},
            "me/x, public if new, at each new best evaluation and at the end",
        ),
        (
            {"revision": "trial", "when": "every_save"},
            "me/x (branch trial), private if new, at each checkpoint and at the end",
        ),
    ],
)
def test_the_plan_says_where_and_when(hub: dict[str, object], told: str):
    assert describe_hub(HubOptions.model_validate({"repo_id": "me/x", **hub})) == told


def test_an_override_is_enough_to_push():
    dumped = dump_config(config_from(LEAST))
    hub = parse_config(dumped, overrides=["hub.repo_id=me/digits", "hub.when=best"]).hub
    assert (hub.repo_id, hub.when, hub.private, hub.revision) == ("me/digits", "best", True, None)


@pytest.mark.parametrize("name", ["me/x", "me/x.y-z_1", "a-b/c", "me/_x"])
def test_names_of_repositories(name: str):
    assert config_from({**LEAST, "hub": {"repo_id": name}}).hub.repo_id == name


@pytest.mark.parametrize(
    "name",
    ["x", "me/", "/x", "a/b/c", "./x", "me/x y", "me/x--y", "me/x.git", "me/.x", "me/" + 97 * "x"],
)
def test_what_is_no_repository(name: str):
    assert problem_of(repo_id=name).startswith("hub.repo_id: must be owner/name")


def test_other_faults():
    assert "end, best" in problem_of(when="always").replace("'", "")
    assert problem_of(language=["German"]).startswith("hub.language: must be ISO 639")


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("push_to_hub", "Write hub.repo_id."),
        ("hub_model_id", "Write hub.repo_id."),
        ("hub_strategy", "Write hub.when."),
        ("hub_private_repo", "Write hub.private."),
        ("hub_token", "Never write a token into a file."),
        ("hub_something_new", "Write the section hub: {repo_id: OWNER/NAME}."),
    ],
)
def test_the_names_of_others_are_explained(key: str, advice: str):
    with pytest.raises(ConfigError) as caught:
        config_from({**LEAST, "train": {key: "x"}})
    assert advice in str(caught.value)
