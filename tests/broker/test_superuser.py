"""The user of an embedded broker with access control. tests/path/test_secured_path.py has one running."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.broker.cluster import cluster
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.errors import BrokerError
from pipeline.broker.properties import server_properties
from pipeline.broker.superuser import Superuser
from pipeline.settings import KafkaSettings, Settings

USER = Superuser("headrace", "correct-horse-battery")


@pytest.mark.parametrize("name", ["", "a b", 'a"', "a;b", "-a", "é", "User:a", "x" * 101])
def test_a_name_that_kafkas_files_would_read_otherwise_is_none(name: str) -> None:
    with pytest.raises(BrokerError):
        Superuser(name, USER.password)


@pytest.mark.parametrize(
    "password", ["", "short", 'quote"quote', "back\\slash", "semi;colon", "a blank in it", "ümlaut12"]
)
def test_a_password_that_kafkas_files_would_read_otherwise_is_none(password: str) -> None:
    with pytest.raises(BrokerError) as caught:
        Superuser("headrace", password)
    assert not password or password not in str(caught.value)


def test_the_password_stands_in_no_argument_and_in_no_repr() -> None:
    assert USER.password not in USER.record()
    assert USER.password not in repr(USER)
    assert USER.record() != USER.record(), "salted"


def test_nobody_else_may_do_anything() -> None:
    lines = server_properties(Path("log"), 1, 2, USER).splitlines()
    assert "allow.everyone.if.no.acl.found=false" in lines
    assert "super.users=User:headrace" in lines
    assert "listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT" in lines
    assert not any("PLAINTEXT://" in line.replace("SASL_PLAINTEXT://", "") for line in lines)


@pytest.mark.parametrize(("made_for", "started_as"), [(None, USER), ("headrace", None), ("other", USER)])
def test_data_keeps_to_the_user_that_it_was_made_with(
    made_for: str | None, started_as: Superuser | None, tmp_path: Path
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "meta.properties").touch()
    if made_for:
        (tmp_path / "superuser").write_text(made_for)
    with pytest.raises(BrokerError, match="HEADRACE_DATA_DIR"):
        EmbeddedBroker(tmp_path, superuser=started_as).start()
    assert (tmp_path / "server.properties").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"security_protocol": "SSL"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}, "SCRAM-SHA-512"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-512"}, "KAFKA_SASL_USERNAME"),
    ],
)
async def test_credentials_that_the_embedded_broker_can_not_have_are_told(
    given: dict[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    settings = KafkaSettings(**given, sasl_password=SecretStr("correct-horse-battery"))  # type: ignore[arg-type]
    with pytest.raises(BrokerError, match=told):
        async with cluster(Settings(data_dir=tmp_path), settings):
            pytest.fail("no broker of that kind")
