import pytest

from mindreel import cli


def test_every_action_has_a_function_with_help(capsys):
    for stage, actions in cli.ACTIONS.items():
        for action in actions:
            with pytest.raises(SystemExit) as stop:
                cli.main([stage, action, "--help"])
            assert stop.value.code == 0
            assert len(capsys.readouterr().out) > 150, f"{stage} {action} says nothing about itself"


def test_an_input_error_is_one_message_and_exit_code_1(tmp_path, capsys):
    options = ["--movie", str(tmp_path / "none.mp4"), "--volumes", "3", "--out", str(tmp_path / "out.npy")]
    code = cli.main(["stimuli", "extract", *options, "--cfg", '{"fps": 3, "side": 64}', "--tr-s", "2"])
    text = capsys.readouterr().err
    assert code == 1 and "mindreel stimuli: " in text and "none.mp4" in text and "Traceback" not in text


def test_a_bad_section_names_the_key(tmp_path, capsys):
    options = ["--movie", "m.mp4", "--volumes", "3", "--out", "out.npy", "--tr-s", "2"]
    with pytest.raises(SystemExit):
        cli.main(["stimuli", "extract", *options, "--cfg", '{"fps": 3, "sides": 64}'])
    assert "sides: unknown key" in capsys.readouterr().err
