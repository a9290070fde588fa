"""Plug-ins are found by what their files define, and none is imported for it."""

import pytest

from service.contract.errors import ConfigurationError
from service.contract.plugins import files_that_define, plugin
from trainer import judges


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


def test_the_one_asked_for_is_given_and_the_others_are_not_imported():
    made = plugin("embedding", "create", judges.__file__, judges.__name__, one="judge", several="judges")

    assert callable(made)
    with pytest.raises(ConfigurationError, match=r"no judge 'oracle'\. The judges are embedding, openai_http\."):
        plugin("oracle", "create", judges.__file__, judges.__name__, one="judge", several="judges")
