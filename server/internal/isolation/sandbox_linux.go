package isolation

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// readable is what a child may read beside the libraries that the server has loaded: libraries that it loads itself, and
// what LibTorch, CUDA, glibc and Go read about the machine and the process. In /proc the kernel keeps a child from reading
// the memory and the environment of processes outside its domain.
var readable = []string{
	"/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom",
	"/proc", "/sys/devices", "/sys/fs/cgroup", "/sys/kernel/mm", "/sys/module/nvidia", "/sys/bus/pci",
}

// devices are the files of CUDA's driver, which a child may write to.
var devices = []string{"/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dri/*"}

// restrictFiles denies the calling thread, and the processes that it starts, all files but those that a model needs, TCP,
// and signals to other processes, by Landlock. It can't be undone. It returns what the kernel doesn't enforce.
func restrictFiles(scratch string) (lacking []string) {
	version, _, failed := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if failed != 0 {
		return []string{"no Landlock: the model can use all files of this user"}
	}
	const reading = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// All rights of the first version except to execute: the child's own start needs it, and seccomp denies it later.
	var rights uint64 = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1 - unix.LANDLOCK_ACCESS_FS_EXECUTE
	attributes := unix.LandlockRulesetAttr{}
	for _, each := range []struct {
		since uintptr
		right uint64
	}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if version >= each.since {
			rights |= each.right
		}
	}
	attributes.Handled_access_fs = rights
	if version >= 4 {
		attributes.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 6 {
		attributes.Scoped = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	// An older kernel accepts a larger structure if what it doesn't know is zero.
	ruleset, _, failed := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes), 0)
	if failed != 0 {
		return []string{"no Landlock (" + failed.Error() + "): the model can use all files of this user"}
	}
	defer func() { _ = unix.Close(int(ruleset)) }()
	allow := func(path string, access uint64) {
		_ = allowBeneath(int(ruleset), path, access) // a path that isn't there needs no permission
	}
	for _, path := range append(loadedLibraries(), readable...) {
		allow(path, reading)
	}
	for _, pattern := range devices {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			allow(path, rights)
		}
	}
	allow("/dev/null", reading|unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
	allow(scratch, rights)
	// Root's child gets no capabilities: with CAP_PERFMON it could read this process's environment. Other users have none,
	// and aren't permitted to do this.
	const noRoot, locked = 1, 2
	_ = unix.Prctl(unix.PR_SET_SECUREBITS, noRoot|locked, 0, 0, 0)
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		if _, _, failed := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); failed != 0 {
			err = failed
		}
	}
	if err != nil {
		return []string{"no Landlock (" + err.Error() + "): the model can use all files of this user"}
	}
	return nil
}

// allowBeneath allows access to a file, or to a folder and all below it.
func allowBeneath(ruleset int, path string, access uint64) error {
	descriptor, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(descriptor) }()
	var status unix.Stat_t
	if err := unix.Fstat(descriptor, &status); err != nil {
		return err
	}
	if status.Mode&unix.S_IFMT != unix.S_IFDIR { // the other rights are of folders
		access &= unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(descriptor)}
	_, _, failed := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if failed != 0 {
		return failed
	}
	return nil
}

// loadedLibraries returns this program's file, and the folders of the libraries that it has loaded: the child loads the
// same ones.
func loadedLibraries() []string {
	program, err := os.Executable()
	if err != nil {
		program = ""
	}
	paths := []string{program}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return paths
	}
	defer func() { _ = maps.Close() }()
	seen := map[string]bool{}
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		_, path, _ := strings.Cut(lines.Text(), "/")
		folder := filepath.Dir("/" + path)
		if strings.Contains(path, ".so") && !seen[folder] {
			seen[folder] = true
			paths = append(paths, folder)
		}
	}
	return paths
}

// deniedCalls are the system calls that no model needs and that reach outside the process.
var deniedCalls = []string{
	"acct", "add_key", "bpf", "chroot", "clone3", "delete_module", "execve", "execveat", "finit_module", "fork", "fsconfig", "fsmount", "fsopen",
	"fspick", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie",
	"mount", "mount_setattr", "move_mount", "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open", "personality", "pidfd_getfd",
	"pidfd_open", "pidfd_send_signal", "pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl", "reboot",
	"request_key", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "setdomainname", "sethostname", "setns", "swapoff", "swapon", "syslog", "tkill", "umount2",
	"unshare", "userfaultfd", "vfork",
}

// restrictCalls denies this process, for good, the network, other programs and processes, and what changes the system, by
// seccomp. It returns what the kernel doesn't enforce.
func restrictCalls(cuda bool) (lacking []string) {
	if err := loadFilter(cuda); err != nil {
		return []string{"no seccomp (" + err.Error() + "): the model can use the network and start programs"}
	}
	return nil
}

func loadFilter(cuda bool) error {
	machine, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	self := uint64(os.Getpid())
	denied := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), NamesWithCondtions: []seccomp.NameWithConditions{
		// A process, and not a thread: it would outlive this one.
		{Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsNotSet, Value: unix.CLONE_THREAD}}},
		{Name: "kill", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: self}}},
		{Name: "tgkill", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: self}}},
	}}
	for _, name := range deniedCalls {
		if _, known := machine.SyscallNames[name]; known && name != "clone3" {
			denied.Names = append(denied.Names, name)
		}
	}
	if cuda { // its services use UNIX sockets
		denied.NamesWithCondtions = append(denied.NamesWithCondtions, seccomp.NameWithConditions{
			Name: "socket", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX}},
		})
	} else {
		denied.Names = append(denied.Names, "socket", "socketpair")
	}
	groups := []seccomp.SyscallGroup{denied}
	if _, known := machine.SyscallNames["clone3"]; known {
		// Its flags are out of a filter's sight. Without it glibc uses clone.
		groups = append(groups, seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}})
	}
	return errors.Join(seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: groups},
	}))
}
