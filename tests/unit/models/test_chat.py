"""Chat templates: which models they are refused for, what their records say, and what prompts they need."""

import copy

import pytest

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.artifacts.prompts import EVALUATION, PROMPTS
from lm_headroom.artifacts.store import write
from lm_headroom.errors import HeadroomError
from lm_headroom.models.chat import Chat, ChatSettings
from lm_headroom.models.location import has_kept_content, needs_resolving
from lm_headroom.models.renewal import source_of
from lm_headroom.models.resolve import resolve
from lm_headroom.study.reading import parse_study
from lm_headroom.tasks.prompt_set import pairs, read_prompts
from tests.support.tiny_models import tiny_model

TURN = "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
PLAIN = TURN + "{% if add_generation_prompt %}[assistant]{% endif %}"
WITHOUT_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
TURNS = [
    {"role": "system", "text": "Sums.", "delimiter": "\n\n"},
    {"role": "user", "text": "1 + 1?", "delimiter": " "},
    {"role": "assistant", "text": "2", "delimiter": "\n\n"},
    {"role": "user", "text": "2 + 2?", "delimiter": ""},
]


def speaking(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


@pytest.mark.parametrize(
    "settings, expected",
    [
        (ChatSettings(), "[system]Sums.;[user]1 + 1?;[assistant]2;[user]2 + 2?;[assistant]"),
        (
            ChatSettings("Be brief."),
            "[system]Be brief.\n\nSums.;[user]1 + 1?;[assistant]2;[user]2 + 2?;[assistant]",
        ),
        (ChatSettings("Be brief.\n", False), "[system]Be brief.\nSums.;[user]1 + 1? 2\n\n2 + 2?;[assistant]"),
    ],
)
def test_turns_become_one_text(tokenizer, settings, expected):
    assert Chat(speaking(tokenizer, PLAIN), settings).render(TURNS) == expected


def test_what_the_assistant_has_begun_is_gone_on_with(tokenizer):
    begun = [*TURNS, {"role": "assistant", "text": "It is", "delimiter": ""}]
    assert Chat(speaking(tokenizer, PLAIN), ChatSettings(None, False)).render(begun).endswith("2 + 2?;[assistant]It is")


def test_a_template_that_refuses_the_system_turn_goes_without_it_as_in_lm_eval(tokenizer):
    chat = Chat(speaking(tokenizer, WITHOUT_SYSTEM), ChatSettings())
    assert chat.render(TURNS) == "[user]1 + 1?;[assistant]2;[user]2 + 2?;[assistant]"
    with pytest.raises(HeadroomError, match="its chat template takes no system prompt; leave system_prompt out"):
        Chat(speaking(tokenizer, WITHOUT_SYSTEM), ChatSettings("Be brief."))


@pytest.fixture
def folder(tmp_path, tokenizer):
    tiny_model("llama").save_pretrained(tmp_path / "checkpoint")
    speaking(tokenizer, PLAIN).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_model_without_a_template_is_refused_by_name(folder, tokenizer, tmp_path):
    (folder / "chat_template.jinja").unlink()
    resolve("tiny", str(folder), None, tmp_path / "model.json")
    with pytest.raises(HeadroomError, match=r"model 'tiny': .*checkpoint: its tokenizer has no chat template"):
        resolve("tiny", str(folder), None, tmp_path / "model.json", chat=ChatSettings())


@pytest.mark.parametrize(
    "template, message",
    [("{{ raise_exception('no users') }}", "cannot be applied: no users"), ("{% if", "cannot be applied: ")],
)
def test_a_template_that_fails_is_refused_by_name(folder, tmp_path, template, message):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(HeadroomError, match=f"model 'tiny': the chat template in .*checkpoint {message}"):
        resolve("tiny", str(folder), None, tmp_path / "model.json", chat=ChatSettings())


def test_a_template_that_writes_the_date_is_noted(folder, tmp_path, capsys):
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d') }}" + PLAIN)
    resolve("tiny", str(folder), None, tmp_path / "model.json", chat=ChatSettings())
    assert "model 'tiny': its chat template writes today's date into prompts" in capsys.readouterr().err


def test_the_record_says_how_the_template_is_applied(folder, tmp_path):
    out, settings = tmp_path / "model.json", ChatSettings("Be brief.")
    plain = resolve("tiny", str(folder), None, out)
    assert "chat" not in plain
    record = resolve("tiny", str(folder), None, out, chat=settings)
    assert record == {**plain, "chat": {"system_prompt": "Be brief.", "fewshot_as_multiturn": True}}
    assert read_record(out) == record, "results of the other prompts are no results of these"
    asked = (out, str(folder), None, code_digest("models.resolve"), [])
    assert not needs_resolving(*asked, settings.record())
    for other in (None, ChatSettings().record(), ChatSettings("Be brief.", False).record()):
        assert needs_resolving(*asked, other)
        assert not has_kept_content(*asked, other)


def test_a_study_says_it_to_the_resolving_command():
    keys = {"source": "a/b", "chat_template": True, "system_prompt": "Be\nbrief.", "fewshot_as_multiturn": False}
    model = parse_study({"models": {"m": keys}}).models["m"]
    source = source_of("m", model, "", "")
    assert source.options[4:] == ["--chat-template", "--system-prompt=Be\nbrief.", "--no-fewshot-as-multiturn"]
    assert source.chat == {"system_prompt": "Be\nbrief.", "fewshot_as_multiturn": False}
    assert source_of("m", parse_study({"models": {"m": {"source": "a/b"}}}).models["m"], "", "").chat is None


@pytest.mark.parametrize("key, value", [("system_prompt", "Be brief."), ("fewshot_as_multiturn", False)])
def test_keys_of_a_template_need_one(key, value):
    with pytest.raises(HeadroomError, match=f"'models.m': {key}.* needs chat_template: true"):
        parse_study({"models": {"m": {"source": "a/b", key: value}}})


def test_prompts_have_replies_in_place_of_continuations_and_turns(tokenizer, tmp_path):
    columns = {name: [0] for name in (column.name for column in PROMPTS.columns)}
    columns |= {name: ["x"] for name in ("split", "metric")} | {"purpose": [EVALUATION], "gold": [True]}
    columns |= {"context": ["Sums.1 + 1?"], "continuation": [" 2"], "turns": [TURNS[:2]], "reply": ["2"]}
    write(tmp_path / "prompts.parquet", PROMPTS, columns, {})
    chat = Chat(speaking(tokenizer, PLAIN), ChatSettings())
    prompts = read_prompts(tmp_path / "prompts.parquet")
    assert pairs(prompts.rows(EVALUATION)) == [(0, "Sums.1 + 1?", " 2")]
    assert pairs(prompts.rows(EVALUATION, chat)) == [(0, "[system]Sums.;[user]1 + 1?;[assistant]", "2")]
    write(tmp_path / "prompts.parquet", PROMPTS, {**columns, "turns": [None]}, {})
    with pytest.raises(HeadroomError, match="no turns for a chat template; render them again"):
        read_prompts(tmp_path / "prompts.parquet").rows(EVALUATION, chat)
