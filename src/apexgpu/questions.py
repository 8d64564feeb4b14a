"""Every question that apexgpu asks, in English and in Chinese. Pure.

A question asks for one decision. Its default, the answer of Enter alone, is what its text recommends; a question that
recommends nothing has "no". `tests/quick/test_questions.py` holds the two languages together.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its values filled in. `default` is the answer of Enter alone to a y/N question."""

    english: str
    chinese: str
    default: bool = False


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """A question with names in braces for its values."""

    english: str
    chinese: str
    default: bool = False

    def fill(self, **values: object) -> Question:
        """The question with these values, which may contain anything."""
        return Question(
            self.english.format(**values), self.chinese.format(**values), default=self.default
        )


# Login and keys

ACCOUNT = QuestionForm("Your domain account", "你的域账户")
DOMAIN_PASSWORD = QuestionForm("Domain password of {user}", "{user} 的域密码")
SEND_PASSWORD = QuestionForm(
    "Send the password anyway, now and every time?", "仍然发送密码吗（这一次和以后每一次）？"
)
NEW_PASSPHRASE = QuestionForm(
    "Passphrase for the new key (empty for none)", "新密钥的口令（留空表示没有口令）"
)
SAME_PASSPHRASE = QuestionForm("The same passphrase again", "再次输入口令")
PASSPHRASE = QuestionForm(
    "Passphrase for {path} (ssh-add {path} would spare you this)",
    "{path} 的口令（执行 ssh-add {path} 之后就不再询问）",
)
USE_KEY_OF_OTHERS = QuestionForm(
    "Your ssh config uses the key {key} for {server}. Use it for the lab too?",
    "你的 ssh 配置把密钥 {key} 用于 {server}。也用于实验室吗？",
)
MAKE_KEY = QuestionForm("Make a new key file anyway?", "仍然新建一个密钥文件吗？")
REMOVE_KEY = QuestionForm("Remove {key} from IAM?", "从 IAM 删除公钥 {key} 吗？")
TRUST_HOST_KEYS = QuestionForm(
    "These fingerprints must be those of the lab (ask an administrator). Trust all of them?",
    "这些指纹必须与实验室的一致（请向管理员核对）。全部信任吗？",
)

# The ssh config, and this laptop

WRITE_CONFIG = QuestionForm("Write this into {path}?", "把以上内容写入 {path} 吗？")
RESTORE_CONFIG = QuestionForm(
    "Put copy {number} in the place of {path}?", "用第 {number} 份副本替换 {path} 吗？"
)
UNINSTALL = QuestionForm("Remove all of this?", "删除以上全部内容吗？")

# Containers

START = QuestionForm(
    "The container on {host} is stopped. Start it?",
    "{host} 上的容器已停止。启动它吗？",
)
RESTART_STUCK = QuestionForm(
    "An interrupted start left the container on {hosts} without its port; nobody can have logged in "
    "since. Stop and start it?",
    "一次中断的启动使 {hosts} 上的容器没有端口，此后没有人能够登录。停止并重新启动它吗？",
    default=True,
)
OPEN_PORTS = QuestionForm(
    "Open these ports to the lab's network again ({ports})?",
    "重新向实验室网络开放这些端口（{ports}）吗？",
)
STOP = QuestionForm("Stop the running container on {hosts}?", "停止 {hosts} 上正在运行的容器吗？")
STOP_IN_USE = QuestionForm(
    "Stop the running container on {hosts} ({busy} in use)?",
    "停止 {hosts} 上正在运行的容器吗（{busy} 正在使用）？",
)
SET_UP = QuestionForm("Set this up on {host}?", "在 {host} 上进行以上安装吗？")
REMOVE_RUNS = QuestionForm("Remove {runs} with their logs?", "删除这 {count} 个任务及其日志吗？")

# Backups

SNAPSHOT_STOPPING = QuestionForm(
    "Take a snapshot of {host}, whose running container is stopped meanwhile?",
    "为 {host} 做快照吗（期间停止正在运行的容器）？",
)
SNAPSHOT_STOPPING_IN_USE = QuestionForm(
    "Take a snapshot of {host}, whose running container is in use and is stopped meanwhile?",
    "为 {host} 做快照吗（容器正在使用，期间会停止）？",
)
SNAPSHOT_KEEPING = QuestionForm(
    "Take a snapshot of {host} (the archive that is there is kept under a name of its own)?",
    "为 {host} 做快照吗（现有的存档会改名保留）？",
)
SNAPSHOT_REPLACING = QuestionForm(
    "Take a snapshot of {host}, which REPLACES the archive that is there?",
    "为 {host} 做快照并覆盖现有的存档吗？",
)
SNAPSHOT_REPLACING_AND_STOPPING = QuestionForm(
    "Stop the running container on {host} and take a snapshot, which REPLACES the archive "
    "that is there?",
    "停止 {host} 上正在运行的容器，做快照并覆盖现有的存档吗？",
)
SNAPSHOT_REPLACING_AND_STOPPING_IN_USE = QuestionForm(
    "Stop the running container on {host}, which is in use, and take a snapshot, which REPLACES the "
    "archive that is there?",
    "停止 {host} 上正在使用的容器，做快照并覆盖现有的存档吗？",
)
SNAPSHOT_FIRST = QuestionForm(
    "Take a snapshot of the container on {host} first?",
    "先为 {host} 上的容器做一份快照吗？",
    default=True,
)
DELETE_ARCHIVE = QuestionForm("Delete this archive?", "删除这份存档吗？")
DELETE_ARCHIVES = QuestionForm("Delete these {count} archives?", "删除这 {count} 份存档吗？")
NEW_HOST_KEYS = QuestionForm(
    "Other people may have read the host keys in the archive. Give the container new ones?",
    "其他人可能读取过存档里的主机密钥。为容器生成新的主机密钥吗？",
    default=True,
)
FINISH = QuestionForm("Finish the {what} now?", "现在完成中断的 {what} 吗？")
FINISH_RECOVER = QuestionForm(
    "Finish the recover from {archive} now?", "现在完成从 {archive} 的恢复吗？"
)

# Where a name has to be typed

RECOVER_RUNNING = QuestionForm(
    "This stops your container on {host}, deletes and replaces all its files by those of {source}",
    "这会停止 {host} 上的容器，并删除其中的全部文件，换成 {source} 的文件",
)
RECOVER_STOPPED = QuestionForm(
    "This deletes and replaces all files of your container on {host} by those of {source}",
    "这会删除 {host} 上容器的全部文件，换成 {source} 的文件",
)
REMOVE_ONLY_KEY = QuestionForm(
    "IAM has no other key of yours: without {key} you lose access to every host",
    "IAM 里没有你的其他公钥：删除 {key} 之后，你将无法访问任何主机",
)
REMOVE_OWN_KEY = QuestionForm(
    "this laptop logs in with {key}: without it, it loses access to every host",
    "本机用 {key} 登录：删除之后，本机将无法访问任何主机",
)
TYPE_NAME = QuestionForm("{effect}. Type {name} to go ahead", "{effect}。输入 {name} 继续")
