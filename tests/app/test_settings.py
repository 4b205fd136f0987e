"""Settings come from five places in one order, and misspelt ones are errors."""

from pathlib import Path

import pytest

from app.opening import UNCALIBRATED_PERCEPTUAL_RADIUS, perceptual_radius
from app.profiles import PROFILES
from app.settings import Settings, SettingsError, read_settings
from defenses.calibration import Calibration
from defenses.vocabulary import Mode


def test_the_default_profile_is_balanced() -> None:
    """Without a word the service defends itself."""
    settings = read_settings()
    assert settings.profile == "balanced"
    assert settings.ood.mode is settings.near_duplicates.mode is settings.misrecognition.mode is settings.truncation.mode is Mode.ENFORCE


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str) -> None:
    """Each value of each profile is one that the settings accept, and it is what is read."""
    settings = read_settings(profile=profile)
    for section, values in PROFILES[profile].items():
        for key, value in values.items():
            assert getattr(getattr(settings, section), key) == value


def test_open_has_no_defence() -> None:
    """The reference alters, hides and looks up nothing."""
    settings = read_settings(profile="open")
    modes = {
        settings.ood.mode,
        settings.near_duplicates.mode,
        settings.misrecognition.mode,
        settings.watermark.mode,
        settings.truncation.mode,
    }
    assert modes == {Mode.OFF}


def test_the_command_line_wins_over_environment_over_file_over_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five sources, one order."""
    file = tmp_path / "settings.toml"
    file.write_text('profile = "strict"\n[truncation]\ntop_k = 5\ndecimals = 5\n[misrecognition]\nrate = 0.5\n')
    monkeypatch.setenv("CLONEGUARD_TRUNCATION__TOP_K", "6")
    monkeypatch.setenv("CLONEGUARD_TRUNCATION__DECIMALS", "6")
    settings = read_settings(file=file, assignments=["truncation.top_k=7"])
    assert settings.truncation.top_k == 7  # command line
    assert settings.truncation.decimals == 6  # environment
    assert settings.misrecognition.rate == 0.5  # file
    assert settings.watermark.rate == 0.01  # profile strict, chosen by the file
    assert settings.ood.scorer == "auto"  # default


def test_one_assignment_leaves_the_rest_of_its_section_to_the_profile() -> None:
    """`--set` changes one key, not a section."""
    settings = read_settings(profile="balanced", assignments=["ood.benign_fpr=0.01"])
    assert (settings.ood.mode, settings.ood.benign_fpr, settings.ood.hysteresis) == (Mode.ENFORCE, 0.01, 0.0175)


def test_none_can_be_assigned() -> None:
    """`none` takes a limit away where that is possible."""
    assert read_settings(assignments=["truncation.decimals=none"]).truncation.decimals is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("ood.mode=enforced", "ood.mode"),
        ("ood.mod=off", "ood.mod"),
        ("odd.mode=off", "odd"),
        ("misrecognition.rate=1.5", "misrecognition.rate"),
        ("misrecognition.rate", "expected section.key=value"),
        ("server=1", "server"),
        ("=3", "expected section.key=value"),
        ("profile=opened", "profile"),
        ("server.port=http", "server.port"),
    ],
)
def test_a_wrong_assignment_is_one_clear_error(assignment: str, message: str) -> None:
    """The message names the key."""
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(assignments=[assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["CLONEGUARD_PROFIL", "CLONEGUARD_OOD_MODE", "CLONEGUARD_OOD__MOD", "CLONEGUARD_ADMIN__TOKN"])
def test_a_misspelt_environment_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nobody believes in a setting that was never read; and what it said stays unsaid, for it may be a secret."""
    monkeypatch.setenv(name, "hush-hush")
    with pytest.raises(SettingsError, match=name) as caught:
        read_settings()
    assert "hush" not in str(caught.value)


def test_a_misspelt_section_of_a_file_is_an_error(tmp_path: Path) -> None:
    """As on the command line."""
    (tmp_path / "settings.toml").write_text("[misrecogniton]\nrate = 0.5\n")
    with pytest.raises(SettingsError, match="misrecogniton"):
        read_settings(file=tmp_path / "settings.toml")


def test_a_missing_file_is_an_error() -> None:
    """A file that was asked for must be there."""
    with pytest.raises(SettingsError, match="no settings file"):
        read_settings(file=Path("nowhere.toml"))


def test_secrets_are_masked_in_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators may read every setting but the secrets."""
    monkeypatch.setenv("CLONEGUARD_SECRET", "a-very-secret-secret")
    assert "a-very-secret-secret" not in str(read_settings(assignments=["admin.token=another-secret-token"]).policy())


def test_every_setting_is_described() -> None:
    """The settings table is made from these texts."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        fields = getattr(section, "model_fields", {name: field})
        assert all(setting.description for setting in fields.values()), name


def test_the_perceptual_radius_is_the_bundles_own_unless_it_is_said() -> None:
    """None is the default; 0 is a radius, not none; a bundle that was never calibrated has a common one."""
    silent, said = read_settings(), read_settings(assignments=["near_duplicates.perceptual_radius=0"])
    assert perceptual_radius(silent, Calibration(perceptual_radius=6)) == 6
    assert perceptual_radius(silent, Calibration(perceptual_radius=0)) == 0
    assert perceptual_radius(said, Calibration(perceptual_radius=6)) == 0
    assert perceptual_radius(silent, Calibration()) == UNCALIBRATED_PERCEPTUAL_RADIUS
    with pytest.raises(SettingsError, match="perceptual_radius"):
        read_settings(assignments=["near_duplicates.perceptual_radius=8"])  # wider than stores search exactly


@pytest.mark.parametrize("password", ["hunter2", "hunter2:x", "h@nter2", "hunter2/x"])
def test_a_store_urls_password_is_not_shown(password: str) -> None:
    """Operators may read all settings; the store itself gets the URL as it was given."""
    settings = read_settings(store={"url": f"redis://shop:{password}@10.0.0.1:6379/2"})
    assert settings.policy()["store"]["url"] == "redis://shop:**********@10.0.0.1:6379/2"
    assert settings.store_url() == f"redis://shop:{password}@10.0.0.1:6379/2"
    settings = read_settings(store={"url": f"redis://10.0.0.1:6379/2?password={password}&ssl_check_hostname=no"})
    assert settings.policy()["store"]["url"] == "redis://10.0.0.1:6379/2?password=**********&ssl_check_hostname=no"
