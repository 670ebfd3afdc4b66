"""Lists of refused certificates: CRLs of the authority, and YAML."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from aligned_vq.errors import ConfigError
from cloud_server import cli
from cloud_server.certificates import issuing
from cloud_server.certificates.client import ClientCertificate, client_certificate
from cloud_server.certificates.refused import RefusedCertificates, parse_refused
from tests.e2e.raw import assert_clear

PATH = Path("refused.txt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issuing.make(folder, None, ("edge-1", "edge-2"))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "certs"))


def authorities(folder: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((folder / "ca.pem").read_bytes())


def shown(path: Path) -> ClientCertificate:
    """As gRPC hands it over."""
    return client_certificate({"x509_pem_cert": [path.read_bytes()]})


def read(folder: Path) -> RefusedCertificates:
    path = folder / "refused.pem"
    return parse_refused(path.read_bytes(), path, authorities(folder))


def crl(
    authority: issuing.CertificateAndKey, *extensions: x509.ExtensionType, serial: int = 7
) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now)
        .next_update(now + timedelta(days=3))
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_the_command_revokes_and_a_renewed_certificate_is_good(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["certs", f"--out={folder}"]
    assert cli.main([*run, "--revoke=edge-1", "--days=30"]) == 0
    assert capsys.readouterr().out == f"{folder / 'refused.pem'}\n"
    first, other = shown(folder / "client-edge-1.pem"), shown(folder / "client-edge-2.pem")
    refused = read(folder)
    assert first in refused
    assert other not in refused
    assert refused.next_update == pytest.approx(
        datetime.now(UTC).timestamp() + 30 * 86_400, abs=100
    )
    assert (folder / "refused.pem").stat().st_mode & 0o777 == 0o644

    for name in ("client-edge-1.pem", "client-edge-1-key.pem"):
        (folder / name).unlink()
    assert cli.main([*run, "--clients=edge-1"]) == 0
    assert cli.main([*run, "--revoke=edge-2"]) == 0
    renewed, refused = shown(folder / "client-edge-1.pem"), read(folder)
    assert renewed.name == first.name
    assert renewed not in refused
    assert first in refused
    assert other in refused
    list_made = x509.load_pem_x509_crl((folder / "refused.pem").read_bytes())
    assert list_made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("case", ["nobody", "other authority", "spoilt list", "other list"])
def test_what_cannot_be_revoked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name, path = "edge-1", folder / "refused.pem"
    if case == "nobody":
        name = "edge-9"
    elif case == "other authority":
        issuing.make(tmp_path / "other", None, ("edge-1",))
        shutil.copy(tmp_path / "other" / "client-edge-1.pem", folder)
    elif case == "spoilt list":
        path.write_text("nothing")
    else:
        path.write_bytes(crl(issuing.new_authority()))
    before = path.read_bytes() if path.exists() else None
    assert cli.main(["certs", f"--out={folder}", f"--revoke={name}"]) == 1
    assert_clear(capsys.readouterr().err.strip())
    assert before == (path.read_bytes() if path.exists() else None)


def test_names_serials_and_fingerprints(folder: Path) -> None:
    first, other = shown(folder / "client-edge-1.pem"), shown(folder / "client-edge-2.pem")
    digits = first.fingerprint.upper()
    colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
    for text in (
        "names: [edge-1]",
        f"serials: ['{first.serial:X}']",
        f"serials: [0x{first.serial:x}, '01']",
        f"names: []\nfingerprints:\n- {colons}\n",
    ):
        refused = parse_refused(text.encode(), PATH, ())
        assert first in refused
        assert other not in refused
        assert refused.next_update is None
    assert first not in parse_refused(b"names: []", PATH, ())


def test_several_crls_of_several_authorities(folder: Path) -> None:
    own, another = issuing.open_authority(folder), issuing.new_authority(name="another")
    serial = shown(folder / "client-edge-1.pem").serial
    trusted = [own.certificate, another.certificate]
    both = crl(own, serial=serial) + b"\n" + crl(another)
    assert shown(folder / "client-edge-1.pem") in parse_refused(both, PATH, trusted)
    # Another authority's list says nothing about this one's certificates.
    theirs = crl(another, serial=serial)
    assert shown(folder / "client-edge-1.pem") not in parse_refused(theirs, PATH, trusted)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got none of them"),
        (b"- edge-1", "got none of them"),
        (b"edge-1", "got none of them"),
        (b"{", "got invalid YAML"),
        (b"\xff\xfe", "got invalid YAML"),
        (b"name: [edge-1]", "invalid entry 'name'"),
        (b"names: edge-1", "invalid entry 'names'"),
        (b"names: [[]]", "expected names of"),
        (b"names: [' ']", "expected names of"),
        (b"serials: [camera]", "serial numbers in hex digits"),
        (b"serials: ['']", "serial numbers in hex digits"),
        (b"fingerprints: [abc]", "fingerprints of 64 hex digits"),
        (b"-----BEGIN X509 CRL-----\nMIIB", "a truncated CRL"),
        (b"-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n", "a malformed CRL"),
    ],
)
def test_what_is_no_list(data: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_refused(data, PATH, ())
    assert words in str(caught.value)
    assert_clear(str(caught.value))


def test_lists_that_nobody_here_signed_or_that_are_not_whole(folder: Path) -> None:
    own = issuing.open_authority(folder)
    impostor = issuing.new_authority()  # of the same name, with another key
    for data, words in (
        (crl(impostor), "an authority in tls_clients signed"),
        (crl(own) + crl(impostor), "an authority in tls_clients signed"),
        (crl(own, x509.DeltaCRLIndicator(1)), "critical extensions"),
        (crl(own)[:-100], "truncated"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            parse_refused(data, PATH, [own.certificate])
        assert_clear(str(caught.value))
