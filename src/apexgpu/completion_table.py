"""What completion knows of the command line. Made by `make completion`; a test says when it is old."""

TABLE: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    '': ('words', ('login', 'logout', 'whoami', 'keys', 'config', 'register', 'up', 'down', 'status', 'ssh', 'exec', 'snapshot', 'snapshots', 'recover', 'rebuild', 'completion', 'demo', 'lab'), ('--version', '--install-completion', '--help')),  # noqa: E501
    'completion': ('words', ('show',), ('--help',)),
    'completion show': ('words', ('bash', 'zsh', 'fish', 'powershell'), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'config': ('words', ('sync', 'status', 'print', 'remove', 'restore'), ('--help',)),
    'config print': ('words', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'config remove': ('words', (), ('--ssh-config', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'config restore': ('files', (), ('--ssh-config', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'config status': ('words', (), ('--ssh-config', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'config sync': ('words', (), ('--dry-run', '--include', '--except', '--ssh-config', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'demo': ('words', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'down': ('hosts', (), ('--all', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'exec': ('hosts', (), ('--all', '--limit', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'keys': ('words', ('list', 'add', 'remove'), ('--help',)),
    'keys add': ('files', (), ('--password-stdin', '--no-save-password', '--allow-http', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'keys list': ('words', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'keys remove': ('files', (), ('--password-stdin', '--no-save-password', '--allow-http', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'lab': ('words', ('up', 'env', 'status', 'fault', 'down'), ('--help',)),
    'lab down': ('words', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'lab env': ('words', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'lab fault': ('hosts', (), ('--times', '--clear', '--list', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'lab status': ('words', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'lab up': ('words', (), ('--hosts', '--registered', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'login': ('files', (), ('--iam-url', '--key', '--password-stdin', '--no-save-password', '--allow-http', '--register', '--register-all', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'logout': ('words', (), ('--keep-config', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'rebuild': ('hosts', (), ('--unverified', '--snapshot', '--new-host-keys', '--undo', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'recover': ('hosts', (), ('--from', '--unverified', '--snapshot', '--new-host-keys', '--undo', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'register': ('hosts', (), ('--all', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'snapshot': ('hosts', (), ('--name', '--no-restart', '--replace', '--undo', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),  # noqa: E501
    'snapshots': ('words', ('list', 'verify', 'remove', 'keep'), ('--help',)),
    'snapshots keep': ('files', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'snapshots list': ('hosts', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'snapshots remove': ('files', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'snapshots verify': ('files', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'ssh': ('hosts', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'status': ('hosts', (), ('--watch', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'up': ('hosts', (), ('--all', '--wait', '--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
    'whoami': ('words', (), ('--json', '--yes', '--accept-new', '--timeout', '--debug', '--help')),
}
