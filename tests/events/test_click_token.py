"""A token proves what was shown; nobody without a key can make or change one."""

import multiprocessing
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.errors import ConfigurationError, TokenRefused
from service.events.click_token import KEY_FILE, ClickClaims, TokenSigner, load_or_create_secret

OLD, NEW = "old-" + "k" * 30, "new-" + "k" * 30
NOW = 1_800_000_000
CLAIMS = ClickClaims(
    impression_id="0190f0c2a7b87c3e9d0f",
    tenant="default",
    task="suggest",
    arm="control",
    policy_version="sft-2026-11-21",
    ctr_version=None,
    cor_version=None,
    n_shown=3,
    expires_at=NOW + 3600,
)


def refusal(signer: TokenSigner, token: str, now: float = NOW) -> str:
    with pytest.raises(TokenRefused) as refused:
        signer.verify(token, now)
    return refused.value.reason


def test_a_token_says_what_was_signed() -> None:
    signer = TokenSigner([NEW])

    claims = signer.verify(signer.sign(CLAIMS), NOW)

    assert claims == CLAIMS


def test_a_token_fits_into_a_url() -> None:
    token = TokenSigner([NEW]).sign(CLAIMS)

    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert len(token) < 300


def test_a_new_token_is_valid_for_the_days_asked() -> None:
    signer = TokenSigner([NEW], valid_days=2, now=lambda: NOW)

    assert signer.expiry() == NOW + 2 * 86_400


def test_a_token_of_another_key_is_forged() -> None:
    token = TokenSigner(["x" * 32]).sign(CLAIMS)

    assert refusal(TokenSigner([NEW]), token) == "forged"


def test_no_character_of_a_token_can_be_changed_or_added() -> None:
    signer = TokenSigner([NEW])
    token = signer.sign(CLAIMS)

    changed = [token[:k] + other + token[k + 1 :] for k in range(len(token)) for other in "AB.!" if other != token[k]]
    inserted = [token[:k] + other + token[k:] for k in range(len(token) + 1) for other in "A.= "]

    assert {refusal(signer, one) for one in changed + inserted} == {"forged", "malformed"}


def test_a_token_is_refused_from_its_expiry_on() -> None:
    signer = TokenSigner([NEW])
    token = signer.sign(CLAIMS)

    assert signer.verify(token, NOW + 3599) == CLAIMS
    assert refusal(signer, token, NOW + 3600) == "expired"


def test_after_a_rotation_the_newest_key_signs_and_the_old_one_is_still_accepted() -> None:
    before, during, after = TokenSigner([OLD]), TokenSigner([NEW, OLD]), TokenSigner([NEW])

    assert during.verify(before.sign(CLAIMS), NOW) == CLAIMS
    assert after.verify(during.sign(CLAIMS), NOW) == CLAIMS
    assert refusal(after, before.sign(CLAIMS)) == "forged"


@settings(max_examples=50)
@given(st.text(max_size=50))
def test_no_text_is_taken_for_a_token(text: str) -> None:
    assert refusal(TokenSigner([NEW]), text) in ("malformed", "forged")


def test_a_long_text_is_refused_unread() -> None:
    assert refusal(TokenSigner([NEW]), "a." * 10_000) == "malformed"


def test_an_unlimited_version_name_survives() -> None:
    signer = TokenSigner([NEW])
    claims = replace(CLAIMS, policy_version="organisation/Größe-😀")

    assert signer.verify(signer.sign(claims), NOW) == claims


@pytest.mark.parametrize("secrets", [[], ["short"], [NEW, OLD, "x" * 32]], ids=["none", "short", "three"])
def test_keys_that_are_too_few_too_short_or_too_many_are_refused(secrets: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        TokenSigner(secrets)


def test_the_key_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    first = load_or_create_secret(tmp_path)
    second = load_or_create_secret(tmp_path)

    assert first == second
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_processes_that_make_the_key_file_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(load_or_create_secret, [tmp_path] * 16, chunksize=1)

    assert len({tuple(secrets) for secrets in found}) == 1


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create_secret(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_or_create_secret(tmp_path)


def test_a_key_file_may_hold_two_keys_newest_first(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    path.touch(mode=0o600)
    path.write_text(f"{NEW}\n{OLD}\n")

    assert load_or_create_secret(tmp_path) == [NEW, OLD]


@pytest.mark.parametrize("text", ["", "short\n", f"{NEW}\n{OLD}\n{'x' * 32}\n"], ids=["empty", "short", "three"])
def test_a_key_file_that_holds_no_one_or_two_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / KEY_FILE
    path.touch(mode=0o600)
    path.write_text(text)

    with pytest.raises(ConfigurationError):
        load_or_create_secret(tmp_path)
