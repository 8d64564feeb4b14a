"""Which key a login used, as the log of ssh shows it, and what that proves about the key of `apexgpu login`."""

from pathlib import Path

import pytest

from apexgpu import login
from apexgpu.account import Account
from apexgpu.errors import ApexError, NoLocalUserError
from apexgpu.models import Host, Target
from apexgpu.process import Completed, LocalRunner
from apexgpu.ssh import failures, opensshclient, route, sshlog
from apexgpu.ssh.transport import UsedKey

OWN, OTHER = "SHA256:own", "SHA256:other"
OFFER_OWN = f"debug1: Offering public key: /h/.ssh/own ED25519 {OWN} explicit\n"
OFFER_OTHER = f"debug1: Offering public key: /h/.ssh/other RSA {OTHER} agent\n"
ACCEPT_OWN = f"debug1: Server accepts key: /h/.ssh/own ED25519 {OWN} explicit\n"
ACCEPT_OTHER = f"debug1: Server accepts key: /h/.ssh/other RSA {OTHER} agent\n"
TRY_OWN = "debug1: Trying private key: /h/.ssh/own\n"
GO_ON = "debug1: Authentications that can continue: publickey\n"
DONE = 'Authenticated to 10.0.0.7 ([10.0.0.7]:22) using "publickey".\n'
ACCOUNT = Account(user="alice", fingerprint=OWN, identity_file="/h/.ssh/own")


@pytest.mark.parametrize(
    ("log", "used", "accepted", "other_key"),
    [
        (OFFER_OWN + ACCEPT_OWN, UsedKey(OWN, "/h/.ssh/own"), True, False),
        (
            OFFER_OTHER + GO_ON + OFFER_OWN + ACCEPT_OWN,
            UsedKey(OWN, "/h/.ssh/own", (OTHER,)),
            True,
            False,
        ),
        (
            OFFER_OWN + GO_ON + OFFER_OTHER + ACCEPT_OTHER,
            UsedKey(OTHER, "/h/.ssh/other", (OWN,)),
            False,
            True,
        ),
        # The agent's keys come first: nobody asked the server about ours.
        (OFFER_OTHER + ACCEPT_OTHER, UsedKey(OTHER, "/h/.ssh/other"), None, True),
        # A file without a public half is not offered first.
        (OFFER_OTHER + GO_ON + TRY_OWN, UsedKey("", "/h/.ssh/own", (OTHER,)), True, False),
        (
            TRY_OWN + GO_ON + OFFER_OTHER + ACCEPT_OTHER,
            UsedKey(OTHER, "/h/.ssh/other", ("/h/.ssh/own",)),
            False,
            True,
        ),
        # A server that wants no key at all.
        ("", UsedKey(""), None, False),
    ],
    ids=[
        "own",
        "own-after-another",
        "another",
        "another-first",
        "file",
        "other-after-file",
        "none",
    ],
)
def test_the_key_that_logged_in(
    log: str, used: UsedKey, accepted: bool | None, other_key: bool
) -> None:
    assert opensshclient.used_key(sshlog.parse(log + DONE)) == used
    assert login.judge(ACCOUNT, used) == login.KeyOnHost(accepted, other_key)


def test_a_login_that_nobody_saw_proves_nothing() -> None:
    assert login.judge(ACCOUNT, None) == login.KeyOnHost(accepted=None)


class NoName(LocalRunner):
    """A machine whose password database lacks the account that we run under."""

    def run(self, argv, **_options):  # type: ignore[no-untyped-def]
        return Completed(tuple(argv), 255, b"", b"No user exists for uid 61234\r\n")


class TestAnAccountWithoutAName:
    TARGET = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "manage")
    SAID = "No user exists for uid 61234\r\n"

    def expect(self, error: ApexError) -> None:
        assert isinstance(error, NoLocalUserError)
        assert (error.exit_code, error.code) == (2, "no_local_user")
        assert error.message == (
            "ssh does not run under this account: No user exists for uid 61234"
        )
        assert error.hint == "getent passwd $(id -u)"

    def test_is_named_where_ssh_reads_its_config(self, tmp_path: Path) -> None:
        with pytest.raises(NoLocalUserError) as caught:
            route.resolve(self.TARGET, config=tmp_path / "config", runner=NoName())
        self.expect(caught.value)

    def test_is_named_where_ssh_should_connect(self) -> None:
        failure = failures.classify(self.SAID)
        assert failure is failures.SshFailure.NO_LOCAL_USER
        self.expect(failures.failure_error(self.TARGET, failure, self.SAID))
