"""The commands that a `hint:` names, for each system: what to paste on Linux, on macOS, in PowerShell.

Every hint that is not a command of apexgpu, ssh, git or another program that is the same everywhere comes from here.
In each function the systems stand side by side. `system` is the one to answer for, by default this one.
"""

import os
import shlex
from pathlib import Path

from apexgpu.platforms.shellwords import quoted
from apexgpu.platforms.system import System, current


def _choose(system: System | None, *, posix: str, windows: str, macos: str | None = None) -> str:
    """The command of the system; macOS has that of Linux unless it has its own."""
    system = system or current()
    if system is System.WINDOWS:
        return windows
    if system is System.MACOS and macos is not None:
        return macos
    return posix


# Files


def look_at(path: str | Path, system: System | None = None) -> str:
    """Show the owner and the rights of a file or directory."""
    name = quoted(str(path), system)
    return _choose(system, posix=f"ls -ld {name}", windows=f"icacls {name}")


def list_directory(path: str | Path, system: System | None = None) -> str:
    """Show what is in a directory, with hidden files."""
    name = quoted(str(path), system)
    return _choose(system, posix=f"ls -la {name}", windows=f"dir -Force {name}")


def list_ssh_directory(system: System | None = None) -> str:
    """Show the user's ssh files."""
    return _choose(system, posix="ls -l ~/.ssh", windows="dir ~/.ssh")


def list_names_of(path: str | Path, system: System | None = None) -> str:
    """Show the other names (hard links) of a file."""
    name = quoted(str(path), system)
    return _choose(system, posix=f"ls -li {name}", windows=f"fsutil hardlink list {name}")


def move(old: str | Path, new: str | Path, system: System | None = None) -> str:
    """Give a file another name."""
    names = f"{quoted(str(old), system)} {quoted(str(new), system)}"
    return _choose(system, posix=f"mv {names}", windows=f"move {names}")


def make_private(path: str | Path, *, directory: bool = False, system: System | None = None) -> str:
    """Let nobody but the user read a file or directory, as ssh demands of keys and configs."""
    name = quoted(str(path), system)
    user = os.environ.get("USERNAME", "USER")
    rights = "(OI)(CI)F" if directory else "F"
    return _choose(
        system,
        posix=f"chmod {'700' if directory else '600'} {name}",
        windows=f'icacls {name} /inheritance:r /grant:r "{user}:{rights}"',
    )


def forbid_writing(path: str | Path, system: System | None = None) -> str:
    """Let nobody but the user write a file."""
    name = quoted(str(path), system)
    return _choose(
        system, posix=f"chmod go-w {name}", windows=make_private(path, system=System.WINDOWS)
    )


def show_line(path: str | Path, line: int, system: System | None = None) -> str:
    """Show one line of a file."""
    name = quoted(str(path), system)
    return _choose(
        system,
        posix=f"sed -n {line}p {name}",
        windows=f"Get-Content {name} | Select-Object -Index {line - 1}",
    )


def show_file(path: str | Path, system: System | None = None) -> str:
    """Show a file."""
    name = quoted(str(path), system)
    return _choose(system, posix=f"cat {name}", windows=f"Get-Content {name}")


def find_text(text: str, path: str | Path, system: System | None = None) -> str:
    """Show the lines of a file that contain `text`, in upper or lower case."""
    name = quoted(str(path), system)
    return _choose(
        system, posix=f"grep -in {text} {name}", windows=f"Select-String -Pattern {text} {name}"
    )


def show_free_space(*paths: str | Path, system: System | None = None) -> str:
    """Show how much room the disks have."""
    names = " ".join(quoted(str(path), system) for path in paths)
    return _choose(
        system, posix=f"df -h {names}".rstrip(), windows="Get-PSDrive -PSProvider FileSystem"
    )


def make_writable(path: str | Path, system: System | None = None) -> str:
    """Let the user write a file that is marked as read-only."""
    name = quoted(str(path), system)
    return _choose(system, posix=f"chmod u+w {name}", windows=f"attrib -r {name}")


# Keys and agents


def add_key(path: str | Path | None, system: System | None = None) -> str:
    """Add a key to the agent, so that its passphrase is not asked for again: on macOS, ever."""
    name = quoted(str(path), system) if path is not None else ""
    return _choose(
        system,
        posix=f"ssh-add {name}".rstrip(),
        macos=f"ssh-add --apple-use-keychain {name}".rstrip(),
        windows=f"ssh-add {name}".rstrip(),
    )


def start_agent(system: System | None = None) -> str:
    """Start an agent and add the keys. On Windows, as administrator: the service is disabled at first."""
    return _choose(
        system,
        posix='eval "$(ssh-agent)" && ssh-add',
        windows="Set-Service ssh-agent -StartupType Automatic; Start-Service ssh-agent; ssh-add",
    )


def write_public_half(path: str | Path, system: System | None = None) -> str:
    """Write the public half of a key beside it. PowerShell 5.1 would write UTF-16 with `>`."""
    name = quoted(str(path), system)
    public = quoted(f"{path}.pub", system)
    return _choose(
        system,
        posix=f"ssh-keygen -y -f {name} > {public}",
        windows=f"ssh-keygen -y -f {name} | Set-Content -Encoding Ascii {public}",
    )


def show_known_host_key(name: str, path: Path | None = None, system: System | None = None) -> str:
    """Show the fingerprints that a known_hosts file, by default the user's own, has for a name."""
    command = f"ssh-keygen -l -F {quoted(name, system)}"
    return f"{command} -f {quoted(str(path), system)}" if path is not None else command


def convert_public(path: str | Path, new: str | Path, system: System | None = None) -> str:
    """Convert a public key in SSH2's form into OpenSSH's."""
    old, target = quoted(str(path), system), quoted(str(new), system)
    return _choose(
        system,
        posix=f"ssh-keygen -i -f {old} > {target}",
        windows=f"ssh-keygen -i -f {old} | Set-Content -Encoding Ascii {target}",
    )


def remove_carriage_returns(path: str | Path, system: System | None = None) -> str:
    """Give a key file the line ends that ssh reads, and a final one; the new file is private from the start."""
    name = quoted(str(path), system)
    new = quoted(f"{path}.new", system)
    return _choose(
        system,
        posix=f"""printf '%s\\n' "$(tr -d '\\r' <{name})" >{new} && chmod 600 {new} && mv {new} {name}""",
        windows=f'[IO.File]::WriteAllText({_literal(path)}, ((Get-Content -Raw {name}) -replace "`r").Trim() + "`n")',
    )


def _literal(path: str | Path) -> str:
    doubled = str(path).replace("'", "''")
    return f"'{doubled}'"


# Variables, processes, accounts


def set_variable(name: str, value: str | Path, system: System | None = None) -> str:
    """Set a variable of this shell."""
    return _choose(
        system,
        posix=f"export {name}={quoted(str(value), System.LINUX)}",
        windows=f"$env:{name} = {_literal(value)}",
    )


def with_variable(name: str, value: str, command: str, system: System | None = None) -> str:
    """Run a command with a variable that is set."""
    return _choose(
        system,
        posix=f"{name}={quoted(value, System.LINUX)} {command}",
        windows=f"$env:{name} = {_literal(value)}; {command}",
    )


def unset_variable(name: str, system: System | None = None) -> str:
    """Remove a variable of this shell."""
    return _choose(system, posix=f"unset {name}", windows=f"Remove-Item Env:{name}")


def kill(*pids: int, system: System | None = None) -> str:
    """End processes for good."""
    posix = " ".join(str(pid) for pid in pids)
    windows = " ".join(f"/PID {pid}" for pid in pids)
    return _choose(system, posix=f"kill -9 {posix}", windows=f"taskkill /F {windows}")


def measure(command: str, system: System | None = None) -> str:
    """Run a command and show how long it takes."""
    return _choose(system, posix=f"time {command}", windows=f"Measure-Command {{ {command} }}")


def show_account(system: System | None = None) -> str:
    """Show the entry of this account in the system's database."""
    return _choose(system, posix="getent passwd $(id -u)", macos="id -P", windows="whoami /user")


def set_home(system: System | None = None) -> str:
    """Set HOME to the directory that the system's database has for this account."""
    return _choose(
        system,
        posix='export HOME="$(getent passwd "$(id -u)" | cut -d: -f6)"',
        macos='export HOME="$(id -P | cut -d: -f9)"',
        windows="$env:USERPROFILE = (Get-CimInstance Win32_UserProfile -Filter \"SID='$(([Security.Principal."
        "WindowsIdentity]::GetCurrent()).User)'\").LocalPath",
    )


def set_home_to_this_directory(system: System | None = None) -> str:
    """Set HOME where the system's database does not know this account: to the directory that the user is in."""
    return _choose(system, posix='export HOME="$PWD"', windows="$env:USERPROFILE = $PWD")


# The network


def http_head(url: str, system: System | None = None) -> str:
    """Ask a web server for the headers alone. In PowerShell 5.1, `curl` is another program."""
    return _choose(system, posix=f"curl -I {url}", windows=f"curl.exe -I {url}")


def http_get(url: str, system: System | None = None) -> str:
    """Ask a web server for a page with its headers."""
    return _choose(system, posix=f"curl -i {url}", windows=f"curl.exe -i {url}")


# apexgpu's own commands, where the shell matters


def pipe_password(system: System | None = None) -> str:
    """Give the password from a variable to apexgpu."""
    return _choose(
        system,
        posix="printf '%s' \"$PASSWORD\" | apexgpu login --password-stdin",
        windows="$env:PASSWORD | apexgpu login --password-stdin",
    )


# Installing


def install(program: str, system: System | None = None) -> str:
    """Install a program that apexgpu needs."""
    package = program
    if program in {"ssh", "ssh-keygen", "ssh-add", "sftp"}:
        package = "openssh-client"
    return _choose(
        system,
        posix=f"sudo apt install {package}",
        macos='export PATH="$PATH:/usr/bin"',  # macOS ships it there
        windows="Add-WindowsCapability -Online -Name OpenSSH.Client~~~~0.0.1.0",
    )


def set_lab_variables(*, unset: bool = False, system: System | None = None) -> str:
    """Point this shell at the embedded lab, or no longer."""
    command = "apexgpu lab env --unset" if unset else "apexgpu lab env"
    return _choose(
        system,
        posix=f'eval "$({command})"',
        windows=f"{command} | Out-String | Invoke-Expression",
    )


def in_this_shell(command: str, system: System | None = None) -> str:
    """A command of sh that lists or makes directories, for the shell of the system."""
    if (system or current()) is not System.WINDOWS:
        return command
    program, *words = shlex.split(command)
    paths = [quoted(word, system) for word in words if not word.startswith("-")]
    names = {"ls": "dir", "du": "dir -Recurse", "mkdir": "mkdir"}
    return " ".join([names.get(program, program), *paths])
