"""Plug-ins are found by what their files define, and none is imported for it."""

from service.contract.plugins import files_that_define


def test_files_that_define_the_name_at_their_top_level_are_found_in_order(tmp_path):
    files = {
        "__init__.py": "def create(): ...\n",
        "_shared.py": "def create(): ...\n",
        "second.py": "import nowhere\n\n\ndef create(settings):\n    raise RuntimeError\n",
        "first.py": "def create(): ...\n",
        "inner.py": "class A:\n    def create(self): ...\n",
        "longer.py": "def create_all(): ...\n",
        "value.py": 'EVENTS = """\nSELECT 1\n"""\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    package = str(tmp_path / "__init__.py")

    assert files_that_define("create", package) == ["first", "second"]
    assert files_that_define("EVENTS", package) == ["value"]
