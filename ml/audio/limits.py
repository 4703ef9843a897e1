"""Limit the memory, processor time and files of a running decoder process."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class ChildLimits:
    """Limits of one child process.

    memory_bytes: address space (Linux) or committed memory (Windows)
    cpu_s: processor time of all its threads, seconds
    open_files: descriptors, the three standard ones included (Linux only)
    """

    memory_bytes: int = 512 * 1024 * 1024
    cpu_s: int = 60
    open_files: int = 32


# Limits are set just after the start, from outside: a `preexec_fn` is unsafe in a process with threads. ffmpeg needs
# milliseconds to load before it reads its first byte.

if sys.platform == "linux":
    import resource

    def restrict(pid: int, limits: ChildLimits) -> object:
        """Limit the process `pid`; one that has already ended is left alone."""
        wanted = {
            resource.RLIMIT_AS: limits.memory_bytes,
            # At the hard limit the kernel sends SIGKILL. At a lower soft limit ffmpeg would stop with exit code 0,
            # and the sound so far would be taken for the whole recording.
            resource.RLIMIT_CPU: limits.cpu_s,
            resource.RLIMIT_FSIZE: 0,  # no file may grow; pipes are not files
            resource.RLIMIT_NOFILE: limits.open_files,
            resource.RLIMIT_CORE: 0,
        }
        try:
            for kind, value in wanted.items():
                _, hard = resource.prlimit(pid, kind)
                ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.prlimit(pid, kind, (ceiling, ceiling))
        except ProcessLookupError:
            pass
        return None

elif sys.platform == "win32":
    import win32api
    import win32con
    import win32job

    _TICKS_PER_S = 10_000_000  # Windows counts processor time in units of 100 ns

    def restrict(pid: int, limits: ChildLimits) -> object:
        """Limit the process `pid`. Keep the result while the process runs: releasing it ends the process."""
        job = win32job.CreateJobObject(None, "")
        kind = win32job.JobObjectExtendedLimitInformation
        rules = win32job.QueryInformationJobObject(job, kind)
        basic = rules["BasicLimitInformation"]
        basic["LimitFlags"] = (
            win32job.JOB_OBJECT_LIMIT_PROCESS_MEMORY
            | win32job.JOB_OBJECT_LIMIT_PROCESS_TIME
            | win32job.JOB_OBJECT_LIMIT_ACTIVE_PROCESS
            | win32job.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
        )
        basic["PerProcessUserTimeLimit"] = limits.cpu_s * _TICKS_PER_S
        basic["ActiveProcessLimit"] = 1
        rules["ProcessMemoryLimit"] = limits.memory_bytes
        win32job.SetInformationJobObject(job, kind, rules)
        try:
            access = win32con.PROCESS_SET_QUOTA | win32con.PROCESS_TERMINATE
            win32job.AssignProcessToJobObject(job, win32api.OpenProcess(access, False, pid))
        except win32api.error:
            pass  # it has already ended
        return job

else:

    def restrict(pid: int, limits: ChildLimits) -> object:
        """Do nothing: this system cannot limit a running process. Its time limit still holds."""
        return None
