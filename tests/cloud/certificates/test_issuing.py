"""The certs command, certificates from files, and where a service may listen without them."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from aligned_vq.errors import ConfigError
from cloud_server import cli
from cloud_server.certificates import issuing
from cloud_server.certificates.tls import TlsFiles
from cloud_server.config import CloudConfig
from tests.disk import files_up_to
from tests.e2e.raw import assert_clear


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issuing.make(folder, None, ("edge-1",))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "certs"))


def opened(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def common_name(certificate: x509.Certificate) -> Any:
    (found,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return found.value


def test_the_command_makes_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "certs"
    run = ["certs", f"--out={out}"]
    hosts = "edge.example,127.0.0.1,::1"
    assert cli.main([*run, f"--hosts={hosts}", "--clients=edge-1,edge-2", "--days=2"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    stems = ("ca", "server", "client-edge-1", "client-edge-2")
    assert [p.name for p in written] == [f"{s}{end}" for s in stems for end in (".pem", "-key.pem")]
    for path in written:
        if path.name.endswith("-key.pem"):
            assert path.stat().st_mode & 0o777 == 0o600
    authority, server = opened(out / "ca.pem"), opened(out / "server.pem")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == hosts.split(",")
    server.verify_directly_issued_by(authority)
    left = server.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < left <= timedelta(days=2)

    before = {path: path.read_bytes() for path in written}
    assert cli.main([*run, "--clients=edge-3"]) == 0
    assert capsys.readouterr().out.split() == [
        str(out / name) for name in ("client-edge-3.pem", "client-edge-3-key.pem")
    ]
    added = opened(out / "client-edge-3.pem")
    assert common_name(added) == "edge-3"
    added.verify_directly_issued_by(authority)
    for more in ("--clients=edge-4,edge-1", "--hosts=localhost"):
        assert cli.main([*run, more]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "got an existing file; move it away" in said.err
        assert_clear(said.err.strip())
    assert not (out / "client-edge-4.pem").exists()
    assert before == {path: path.read_bytes() for path in written}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--clients=a/b", "'a/b'"),
        ("--clients=../a", "'../a'"),
        ("--clients=a-key", "not ending in -key"),
        ("--hosts=https://a", "without a port"),
        ("--hosts=a:50051", "without a port"),
        ("--days=0", "at least one day"),
    ],
)
def test_what_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, words: str
) -> None:
    assert cli.main(["certs", f"--out={tmp_path / 'out'}", option]) == 1
    said = capsys.readouterr().err.strip()
    assert words in said
    assert_clear(said)
    assert not (tmp_path / "out").exists()


def test_half_an_authority_is_not_replaced(folder: Path) -> None:
    (folder / "ca-key.pem").unlink()
    with pytest.raises(ConfigError, match=r"ca\.pem, got an existing file"):
        issuing.make(folder, None, ("edge-2",))
    shutil.copy(folder / "server-key.pem", folder / "ca-key.pem")
    with pytest.raises(ConfigError, match="expected the key of"):
        issuing.make(folder, None, ("edge-2",))


def test_a_key_that_a_kill_left_without_its_certificate_gets_one(folder: Path) -> None:
    issuing.make(folder, None, ("edge-2",))
    for stem in ("client-edge-2", "ca"):
        (folder / f"{stem}.pem").unlink()
        key = (folder / f"{stem}-key.pem").read_bytes()
        issuing.make(folder, None, ("edge-2",) if stem != "ca" else ())
        assert (folder / f"{stem}-key.pem").read_bytes() == key
        owner = load_pem_private_key(key, None)
        assert opened(folder / f"{stem}.pem").public_key() == owner.public_key()
    (folder / "client-edge-3-key.pem").write_text("somebody's")
    with pytest.raises(ConfigError, match="existing file; move it away"):
        issuing.make(folder, None, ("edge-3",))
    assert (folder / "client-edge-3-key.pem").read_text() == "somebody's"


@pytest.mark.parametrize("there", ["nothing", "a folder", "an authority"])
def test_a_full_disk_leaves_nothing_new(there: str, folder: Path, tmp_path: Path) -> None:
    out = folder if there == "an authority" else tmp_path / "new"
    if there == "a folder":
        out.mkdir()
        (out / "notes").touch()
    before = sorted(out.glob("*"))
    for size in (0, 300):  # a key fits into 300 bytes, a certificate does not
        with files_up_to(size), pytest.raises(ConfigError, match="File too large") as caught:
            issuing.make(out, None, ("edge-9",))
        assert_clear(str(caught.value))
        assert sorted(out.glob("*")) == before
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_that_is_in_use_gets_its_certificates_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(issuing.make(Path(), None)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("ca-key.pem", "ca.pem", "server-key.pem", "server.pem")
    ]
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {
        "ca-key.pem",
        "server-key.pem",
    }
    assert {name for name, mode in modes.items() if mode == 0o644} == {"ca.pem", "server.pem"}


def files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "server.pem", folder / "server-key.pem", folder / "ca.pem"


def fresh(
    authority: issuing.CertificateAndKey, end: datetime | None = None
) -> issuing.CertificateAndKey:
    return issuing.issue(
        authority,
        "localhost",
        end or datetime.now(UTC) + timedelta(days=1),
        [x509.DNSName("localhost")],
    )


def test_replaced_files_are_served_once_they_fit(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    certificate, key, clients = files(folder)
    tls = TlsFiles(certificate, key, clients)
    assert tls.new_configuration() is None
    pair = fresh(issuing.new_authority())
    certificate.write_bytes(pair.certificate_pem())
    for _ in range(3):
        assert tls.new_configuration() is None
    (warning,) = caplog.messages  # one, not three
    assert "stay in use: expected the key of" in warning
    key.write_bytes(pair.key_pem())
    assert tls.new_configuration() is not None
    assert tls.new_configuration() is None
    clients.write_bytes(issuing.new_authority().certificate_pem())
    assert tls.new_configuration() is not None
    caplog.clear()
    for spoil in (b"", b"not PEM"):
        clients.write_bytes(spoil)
        assert tls.new_configuration() is None
    clients.unlink()
    assert tls.new_configuration() is None
    (first, second) = caplog.messages
    assert "expected certificates in PEM" in first
    assert "No such file" in second


def spoil(case: str, folder: Path) -> None:
    certificate, key, clients = files(folder)
    if case == "encrypted key":
        pair = fresh(issuing.new_authority())
        certificate.write_bytes(pair.certificate_pem())
        locked = BestAvailableEncryption(b"secret")
        key.write_bytes(pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    elif case == "expired":
        pair = fresh(issuing.new_authority(), datetime.now(UTC) - timedelta(minutes=1))
        certificate.write_bytes(pair.certificate_pem())
        key.write_bytes(pair.key_pem())
    elif case == "other key":
        shutil.copy(folder / "client-edge-1-key.pem", key)
    elif case == "swapped":
        shutil.copy(certificate, key)
    elif case == "no key":
        key.unlink()
    else:
        clients.write_text("nothing")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("encrypted key", "without a passphrase"),
        ("expired", "make a new one"),
        ("other key", "got another one in"),
        ("swapped", "expected a private key"),
        ("no key", "No such file"),
        ("no authority", "expected certificates in PEM"),
    ],
)
def test_files_a_service_does_not_start_with(folder: Path, case: str, words: str) -> None:
    spoil(case, folder)
    with pytest.raises(ConfigError) as caught:
        TlsFiles(*files(folder))
    assert words in str(caught.value)
    assert_clear(str(caught.value))


def config(**settings: Any) -> CloudConfig:
    return CloudConfig(Path("bundle"), "model", **settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost"])
def test_loopback_needs_no_certificate(host: str) -> None:
    assert config(host=host, http_port=1, http_host=host).host == host


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.1.2", "fe80::1", "edge.example", "127.1", "127.0.0.1.nip"],
)
def test_beyond_loopback_only_encrypted_or_told_so(host: str) -> None:
    with pytest.raises(ConfigError, match="expected TLS to listen beyond loopback") as caught:
        config(host=host)
    assert_clear(str(caught.value))
    config(host=host, tls_certificate=Path("c"), tls_key=Path("k"))
    config(host=host, plaintext=True)
    with pytest.raises(ConfigError, match="loopback address for HTTP") as caught:
        config(http_port=0, http_host=host, tls_certificate=Path("c"), tls_key=Path("k"))
    assert_clear(str(caught.value))
    config(http_port=0, http_host=host, http_plaintext=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls_certificate": Path("c")}, "set tls_key too"),
        ({"tls_key": Path("k")}, "set tls_certificate too"),
        ({"tls_clients": Path("a")}, "together with tls_clients"),
        ({"burst": 3}, "questions_per_second together with burst"),
        ({"questions_per_second": -1.0}, "expected questions_per_second of 0 or more"),
        ({"max_connection_seconds": 0.0}, "expected max_connection_seconds above 0"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    assert words in str(caught.value)
