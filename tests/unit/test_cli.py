import json
import subprocess
import sys

import pytest

from mindreel import cli, config
from mindreel.sections import Roi, Simulate

EVERY = [(stage, action) for stage, actions in cli.ACTIONS.items() for action in actions]
EXTRACT = ["stimuli", "extract", "--volumes", "3", "--tr-s", "2"]


@pytest.mark.parametrize(("stage", "action"), [*EVERY, ("check", None), ("reconstruct", None)])
def test_help_explains_every_option(stage, action, capsys):
    words = [stage] + [action] * (action is not None)
    app = cli._app(words)
    command, _, _ = app.parse_args([*words, "--help"], exit_on_error=False, print_error=False)
    command([*words])
    shown = capsys.readouterr().out
    assert f"mindreel {' '.join(words)}" in shown
    arguments = app[words[0]][words[1]] if action else app[words[0]]
    for argument in arguments.assemble_argument_collection(parse_docstring=True):
        assert argument.parameter.help and len(argument.parameter.help) > 2, f"{words} {argument.name} is not explained"


def test_every_stage_is_named_without_importing_any():
    code = "import sys; from mindreel.cli import main; main([]); print([m for m in sys.modules if '.stages.' in m])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(stage in shown for stage in (*cli.STAGES, *cli.COMMANDS)) and shown.splitlines()[-1] == "[]"


def test_only_the_stage_at_work_is_imported():
    code = "import sys; from mindreel.cli import main; main(['roi', 'select', '--help']); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "False"


def test_an_input_error_is_one_message_and_exit_code_1(tmp_path, capsys):
    options = ["--movie", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "out.npy")]
    code = cli.main([*EXTRACT, *options, "--cfg", '{"fps": 3, "side": 64}'])
    text = capsys.readouterr().err
    assert code == 1 and "mindreel stimuli: " in text and "none.mp4" in text and "Traceback" not in text


def test_a_bad_section_names_the_key(capsys):
    code = cli.main([*EXTRACT, "--movie", "m.mp4", "--out", "out.npy", "--cfg", '{"fps": 3, "sides": 64}'])
    assert code == 2 and "sides: unknown key" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["roi", "selct"], ["roi", "select", "--bold", "a"], [*EXTRACT, "--volume", "4"]])
def test_a_wrong_command_line_says_so_and_is_exit_code_2(words, capsys):
    assert cli.main(words) == 2
    out = capsys.readouterr()
    assert "Error" in out.out + out.err


def test_a_section_is_taken_from_the_configuration(root, tmp_path):
    whole = config.load(root / "config.yaml", root / "config" / "demo.yaml")
    both = f"{root}/config.yaml,{root}/config/demo.yaml"
    assert config.parse_section(Simulate, both) == whole.simulate
    assert config.parse_section(Roi, both) == whole.experiments["mind-video"].roi
    assert config.parse_section(Roi, f"{both}:neurocine") == whole.experiments["neurocine"].roi
    (tmp_path / "roi.json").write_text(json.dumps(whole.experiments["mind-video"].roi.model_dump()))
    assert config.parse_section(Roi, str(tmp_path / "roi.json")) == whole.experiments["mind-video"].roi
    with pytest.raises(config.InputError, match=r"has no experiment 'none'; it has mind-video"):
        config.parse_section(Roi, f"{both}:none")


def test_outputs_do_not_replace_inputs_nor_what_others_wrote(tmp_path, capsys):
    movie, keep = tmp_path / "movies" / "m.mp4", tmp_path / "keep"
    for file in (movie, keep / "thesis.tex"):
        file.parent.mkdir()
        file.write_text("years")
    for out, message in ((movie, "would replace the input"), (movie.parent, "would replace the input"),
                         (keep, "mindreel did not write")):  # fmt: skip
        code = cli.main([*EXTRACT, "--movie", str(movie), "--out", str(out), "--cfg", '{"fps": 3, "side": 64}'])
        assert code == 1 and message in " ".join(capsys.readouterr().err.split())
    assert cli.main(["check", "--out", str(keep)]) == 1
    assert cli.main(["metrics", "folder", "--pred", str(keep), "--out", str(keep)]) == 1
    assert movie.read_text() == (keep / "thesis.tex").read_text() == "years"
