import pytest

from service.contract.errors import ConfigurationError
from service.contract.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_environment_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_an_override_goes_before_the_environment_and_the_environment_before_the_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("NEXTQUERY_HOST=file\nNEXTQUERY_POLICY=file\nNEXTQUERY_PORT=1\n")
    monkeypatch.setenv("NEXTQUERY_HOST", "environment")
    monkeypatch.setenv("NEXTQUERY_POLICY", "environment")

    settings = load_settings(host="override", policy=None)

    assert (settings.host, settings.policy, settings.port) == ("override", "environment", 1)


def test_an_empty_variable_means_the_default(monkeypatch):
    monkeypatch.setenv("NEXTQUERY_PORT", "")
    monkeypatch.setenv("NEXTQUERY_TIMEOUTS__RECOMMEND_S", "")

    settings = load_settings()

    assert settings.port == 8080
    assert settings.timeouts.recommend_s is None


def test_a_nested_timeout_is_set_by_two_underscores(monkeypatch):
    monkeypatch.setenv("NEXTQUERY_TIMEOUTS__CLICK_S", "1.5")

    settings = load_settings()

    assert settings.timeouts.click_s == 1.5
    assert settings.timeouts.record_s == Settings().timeouts.record_s


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("NEXTQUERY_PORT", "secretive", "NEXTQUERY_PORT"),
        ("NEXTQUERY_TIMEOUTS__CLICK_S", "-17.25", "NEXTQUERY_TIMEOUTS__CLICK_S"),
        ("NEXTQUERY_CORS_ORIGINS", "secretive", "cors_origins"),
        ("NEXTQUERY_PROMPT_TOKENS", "512", "leaves no room for a completion"),
        ("NEXTQUERY_TIMEOUTS__RECOMMEND_S", "11", "above timeouts.recommend_max_s"),
        ("NEXTQUERY_CLICK_TOKEN_SECRETS", '["secretive"]', "can be guessed"),
        (
            "NEXTQUERY_CLICK_TOKEN_SECRETS",
            '["0123456789abcdef","1123456789abcdef","2123456789abcdef"]',
            "more than two",
        ),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence_that_names_the_setting_and_hides_secrets(
    monkeypatch, variable, value, said
):
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError) as refusal:
        load_settings()

    assert said in str(refusal.value)
    assert "secretive" not in str(refusal.value)
    assert "23456789" not in str(refusal.value)


def test_two_long_secrets_are_accepted(monkeypatch):
    monkeypatch.setenv("NEXTQUERY_CLICK_TOKEN_SECRETS", '["0123456789abcdef", "fedcba9876543210"]')

    settings = load_settings()

    assert settings.click_token_secrets[0].get_secret_value() == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(settings)
