"""Settings come from one place, a wrong one is named, and no secret is repeated."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from countersign.settings import Settings, SettingsError, load, printable_url, unknown_variables

ROOT = Path(__file__).parents[2]
ISSUER = {
    "issuer": "https://idp.example.test/pool",
    "jwks": "https://idp.example.test/jwks.json",
    "audience": "console",
    "kind": "cognito",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"COUNTERSIGN_{name.upper()}", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)


def test_without_anything_it_is_the_embedded_mode() -> None:
    settings = load()
    assert settings.embedded
    assert settings.uses_dev_issuer
    assert settings.demo_mode
    assert settings.makes_keys
    assert settings.home_path == Path.cwd() / ".countersign"
    assert settings.keys_dir == Path.cwd() / ".countersign" / "keys"


def test_with_a_database_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://console@db.example.test/console")
    settings = load()
    assert not settings.embedded
    assert not settings.uses_dev_issuer
    assert not settings.demo_mode
    assert not settings.makes_keys
    dsn = settings.dsn("cs_app")
    assert dsn.role == "cs_app"
    assert dsn.connect_kwargs()["server_settings"]["role"] == "cs_app"


def test_embedded_roles_are_logins_of_their_own(tmp_path: Path) -> None:
    arguments = load(home=tmp_path, socket_dir=tmp_path).dsn("cs_sealer").connect_kwargs()
    assert (arguments["host"], arguments["user"], arguments["database"]) == (str(tmp_path), "cs_sealer", "countersign")
    assert "role" not in arguments["server_settings"]
    with pytest.raises(SettingsError, match="countersign serve"):
        load(home=tmp_path).dsn("cs_app")


@pytest.mark.contract("PV-3")
def test_dev_issuer_and_real_issuer_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERSIGN_ISSUERS", json.dumps([ISSUER]))
    settings = load()
    assert [issuer.audience for issuer in settings.issuers] == ["console"]
    assert not settings.uses_dev_issuer
    assert not settings.makes_keys
    monkeypatch.setenv("COUNTERSIGN_DEV_ISSUER", "1")
    with pytest.raises(SettingsError, match="COUNTERSIGN_DEV_ISSUER is refused"):
        load()


@pytest.mark.contract("PV-3")
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/x", "postgresql://"),
        ("DATABASE_URL", "postgresql://u:hunter2@h:99999999/x", "postgresql://"),
        ("COUNTERSIGN_PG_BIN", "/no/such/hunter2", "does not exist"),
        ("COUNTERSIGN_ISSUERS", '{"hunter2"', "not JSON"),
        ("COUNTERSIGN_ISSUERS", '[{"issuer": "x"}]', "missing audience, jwks, kind"),
        ("COUNTERSIGN_API_KEYS", '["hunter2"]', "JSON object"),
        ("COUNTERSIGN_KEYS", "kms:hunter2", "file:PATH"),
        ("COUNTERSIGN_AUDIT_SIGNER", "file:", "file:PATH"),
        ("COUNTERSIGN_AUDIT_ANCHOR", "s3://hunter2/x", "file:PATH"),
        ("COUNTERSIGN_POOL_SIZE", "hunter2", "integer"),
        ("COUNTERSIGN_POOL_SIZE", "0", "greater than or equal to 1"),
        ("COUNTERSIGN_MAX_UNANCHORED_SECONDS", "999999", "less than or equal to 3600"),
        ("COUNTERSIGN_DEMO", "hunter2", "boolean"),
        ("COUNTERSIGN_TLS_CERT", __file__, "COUNTERSIGN_TLS_KEY"),
    ],
)
def test_a_wrong_value_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load()
    assert name in str(error.value)
    assert says in str(error.value)
    assert "hunter2" not in str(error.value) or name == "COUNTERSIGN_PG_BIN"


@pytest.mark.contract("PV-3")
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hunter2@db.example.test:5433/console", "postgresql://me@db.example.test:5433/console"),
        ("postgres://db/console?password=hunter2", "postgres://db/console"),
        ("postgresql://me@/console?host=/tmp/hunter&password=hunter2", "postgresql://me@/tmp/hunter/console"),
        ("postgresql://me:hun@ter2@db/console", "(a database URL that cannot be read)"),
        ("postgresql://me:hunter2@db:port/console", "(a database URL that cannot be read)"),
        ("me:hunter2@db/console", "(a database URL that cannot be read)"),
        ("postgresql://[me:hunter2@db/console", "(a database URL that cannot be read)"),
    ],
)
def test_a_password_is_never_printed(monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    assert printable_url(url) == shown
    assert "hunter2" not in shown
    monkeypatch.setenv("DATABASE_URL", url)
    try:
        settings = load()
        said = repr(settings) + settings.database_label
    except SettingsError as error:
        said = str(error)
    assert "hunter2" not in said


def test_a_misspelled_variable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERSIGN_HOEM", "/x")
    assert unknown_variables() == ["COUNTERSIGN_HOEM"]


def test_only_the_settings_read_the_environment() -> None:
    readers = set()
    for path in [ROOT / "app.py", *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))]:
        if not path.exists():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
                readers.add(str(path.relative_to(ROOT)))
    assert readers == {"countersign/settings.py"}


FOLDERS = ("countersign", "resolvers", "analytics", "services", "authz", "audit", "db", "schema", "migrations")
