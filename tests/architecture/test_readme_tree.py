"""The tree in the README is the tree of the code."""

from tests.architecture import readme_tree

README = readme_tree.ROOT / "README.md"


def test_the_readme_shows_every_module_with_the_first_line_of_its_docstring():
    readme = README.read_text(encoding="utf-8")

    shown = readme_tree.written(readme)

    assert shown == readme_tree.tree(), "Run `python -m tests.architecture.readme_tree --write`."


def test_writing_the_tree_changes_nothing_outside_its_marks():
    readme = f"before\n{readme_tree.START}\nold\n{readme_tree.END}\nafter\n"

    replaced = readme_tree.replaced(readme)

    assert replaced.startswith(f"before\n{readme_tree.START}\n")
    assert replaced.endswith(f"{readme_tree.END}\nafter\n")
    assert readme_tree.written(replaced) == readme_tree.tree()
