"""What is told about samples, on one line whatever their names hold."""

from d2v_fast.errors import report, tell


def test_a_name_stays_on_its_line(capsys):
    report("a\nb\x1b[31m\udcff.jpg", "is empty")
    assert capsys.readouterr().err == "d2v-fast: skipped a\\nb\\x1b[31m\\udcff.jpg: is empty\n"


def test_letters_of_any_language_stay(capsys):
    tell("naïve/日本 – 1 %.wav")
    assert capsys.readouterr().err == "d2v-fast: naïve/日本 – 1 %.wav\n"
