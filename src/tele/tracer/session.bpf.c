// What do the processes of recorded sessions run, open, change and connect to?
//
// A session is a number in the storage of a task. The first process of a session gets it from the
// program that owns these maps; each task gets its parent's before it runs, whatever it does
// later. A task without a number costs one look-up.
//
// Invariants:
//
// * A number of a record is taken before space for it is, so that a lost record is a gap.
// * A session has a share of the space for records: it takes none from others.
// * A record is written whole or not at all; text that is longer than its limit is marked as cut.
// * The environment of a program is never read.
//
// Only those members of kernel structures are declared that are used; libbpf finds where this
// kernel has them (CO-RE). A program whose hook this kernel does not have is left out by the loader.
// records.py reads what is written here; system_calls.py fills the table of system calls.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define CORE __attribute__((preserve_access_index))

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

// -- structures of the kernel -------------------------------------------------------------------
struct qstr { const unsigned char *name; } CORE;
struct super_block { u32 s_dev; } CORE;
struct inode { unsigned short i_mode; unsigned long i_ino; struct super_block *i_sb; } CORE;
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; } CORE;
struct vfsmount { struct dentry *mnt_root; } CORE;
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; } CORE;
struct path { struct vfsmount *mnt; struct dentry *dentry; } CORE;
struct file { struct path f_path; u32 f_flags; u32 f_mode; void *private_data; struct inode *f_inode; } CORE;
struct fdtable { u32 max_fds; struct file **fd; } CORE;
struct files_struct { struct fdtable *fdt; } CORE;
struct fs_struct { struct path pwd; struct path root; } CORE;
typedef struct { int counter; } atomic_t;
struct signal_struct { atomic_t live; u64 utime; u64 stime; unsigned long maxrss; int group_exit_code; } CORE;
struct mm_struct { unsigned long arg_start; unsigned long arg_end; struct file *exe_file; } CORE;
struct thread_info { u32 status; } CORE;
struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	u64 start_boottime;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct signal_struct *signal;
	unsigned int sessionid;
	int exit_code;
	u64 utime;
	u64 stime;
} CORE;
struct linux_binprm { const char *filename; } CORE;
struct in6_addr { u8 b[16]; };
struct sock_common {
	unsigned short skc_family;
	u16 skc_dport;
	u16 skc_num;
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} CORE;
struct sock { struct sock_common __sk_common; u16 sk_type; u16 sk_protocol; } CORE;
struct unix_sock { struct path path; struct sock *peer; } CORE;
struct socket { short type; struct sock *sk; } CORE;
struct io_kiocb { u8 opcode; } CORE;
struct filename { const char *name; } CORE;
struct io_open { int dfd; struct filename *filename; } CORE;
struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9, bx, cx, bp, orig_ax;
} CORE;

// -- structures of a program, 64 bits ------------------------------------------------------------
struct user_open_how { u64 flags; u64 mode; };
struct user_message { u64 name; u32 name_size; };

// -- what is told to its reader -------------------------------------------------------------------
#define EXECUTED 1
#define EXITED 2
#define CALLED 3
#define RING_SUBMITTED 4

// What a session asks for: bits of session.kinds, and of operation.kinds.
#define COMMAND 1
#define DISK 2
#define NETWORK 4
#define SYSCALLS 8
#define MAY_END 32 // it may be told to end
#define HANDOVERS 16 // what other processes may act on, whatever else is asked for

#define CUT 1
#define NAMED_CALL 2

struct head {
	u64 session;
	u64 sequence;
	u64 time; // since boot, with the time asleep, in nanoseconds
	u64 cgroup;
	u32 pid;
	u32 tid;
	u32 parent;
	u32 uid;
	u32 audit_session;
	u32 size; // of what follows
	u16 kind;
	u16 flags;
	u32 class;
	s64 result;
	u64 values[8];
	char comm[16];
};

struct session {
	u64 sequence;
	u64 lost;
	u64 kinds;
	u64 named[16]; // system calls that are recorded one by one: a bit for each number
	u64 written[2]; // bytes in each ring, from the beginning
	u64 uncounted; // system calls of processes that had no place in counts
};

// Bytes of a session that were read from each ring: its reader writes them.
struct progress { u64 read[2]; };
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct progress);
} progresses SEC(".maps");

struct tag { u64 session; };

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tag);
} tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct session);
} sessions SEC(".maps");

// Tasks whose storage could not be made while it was in use on their processor: rare.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, u64);
} late SEC(".maps");
u64 late_tasks = 0;

struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4 << 20); } commands SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 8 << 20); } others SEC(".maps");

// What a system call does: numbers of arguments from 1, 0 for none.
#define OPEN 1
#define PATHS 2
#define DESCRIPTOR 3
#define SOCKET 4
#define ACTION 5
#define EXECUTE 6
#define OPEN_HOW 7
#define SEND_MESSAGE 8
#define SOCKET_CALL 9
#define ACCEPT 10
#define LISTEN 11
#define SEND_MESSAGES 12
#define CONTROL 13

struct operation {
	u8 class;
	u8 kinds;
	u8 path, directory;
	u8 path2, directory2;
	u8 reserved[2];
};
#define CALLS 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * CALLS);
	__type(key, u32);
	__type(value, struct operation);
} operations SEC(".maps");

// Calls of one process.
#define COUNTERS 128
#define PROBES 12
struct process { u64 session; u64 start; u32 pid; u32 reserved; };
struct counter { u32 call; u32 calls; u32 errors; };
struct counters { struct counter counter[COUNTERS]; struct counter others; };
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct process);
	__type(value, struct counters);
} counts SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} no_counts SEC(".maps");

// Space in which records are made, for as many as are made at once.
#define TEXT_LIMIT 32768
#define ONE_TEXT 4096
#define SLOTS 64
#define TRIES 8
struct slot {
	struct head head;
	char text[TEXT_LIMIT + ONE_TEXT];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, u64);
} taken SEC(".maps");

// Its size is in its head: the verifier follows a register through each turn of a loop.
struct record { struct slot *slot; u64 *taken; struct session *session; };

static __always_inline u64 session_of(struct task_struct *task)
{
	struct tag *tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (tag)
		return tag->session;
	if (!late_tasks)
		return 0;
	u32 pid = task->pid;
	u64 *found = bpf_map_lookup_elem(&late, &pid);
	if (!found)
		return 0;
	struct tag given = {.session = *found};
	if (bpf_task_storage_get(&tags, task, &given, BPF_LOCAL_STORAGE_GET_F_CREATE)) {
		bpf_map_delete_elem(&late, &pid);
		__sync_fetch_and_add(&late_tasks, -1);
	}
	return given.session;
}

static __always_inline void count_loss(struct session *session)
{
	__sync_fetch_and_add(&session->lost, 1);
}

// Begin a record of a session that asks for it.
static __always_inline int begin(struct record *record, struct task_struct *task, u64 id,
				 struct session *session, u16 kind)
{
	u64 sequence = __sync_fetch_and_add(&session->sequence, 1) + 1;
	u32 first = bpf_get_smp_processor_id();
	struct slot *slot = 0;
	u64 *busy = 0;
	for (int i = 0; i < TRIES; i++) {
		u32 at = (first + i * 7) % SLOTS;
		busy = bpf_map_lookup_elem(&taken, &at);
		if (busy && __sync_val_compare_and_swap(busy, 0, 1) == 0) {
			slot = bpf_map_lookup_elem(&slots, &at);
			break;
		}
	}
	if (!slot || !busy) {
		count_loss(session);
		return 0;
	}
	struct head *head = &slot->head;
	u64 ids = bpf_get_current_pid_tgid();
	head->session = id;
	head->sequence = sequence;
	head->time = bpf_ktime_get_boot_ns();
	head->cgroup = bpf_get_current_cgroup_id();
	head->pid = ids >> 32;
	head->tid = (u32)ids;
	head->parent = BPF_CORE_READ(task, real_parent, tgid);
	head->uid = (u32)bpf_get_current_uid_gid();
	head->audit_session = 0;
	if (bpf_core_field_exists(task->sessionid))
		head->audit_session = BPF_CORE_READ(task, sessionid);
	head->kind = kind;
	head->flags = 0;
	head->class = 0;
	head->result = 0;
	__builtin_memset(head->values, 0, sizeof(head->values));
	bpf_get_current_comm(head->comm, sizeof(head->comm));
	head->size = 0;
	record->slot = slot;
	record->taken = busy;
	record->session = session;
	return 1;
}

// Whether a session may have so much more in a ring: not more than is left for all others. However
// many write as much as they can, there is space for one that does not.
static __always_inline int has_share(struct record *record, void *ring, u32 which, u64 size)
{
	u64 all = bpf_ringbuf_query(ring, BPF_RB_RING_SIZE);
	u64 used = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
	if (used < all / 8)
		return 1;
	u64 id = record->slot->head.session;
	struct progress *progress = bpf_map_lookup_elem(&progresses, &id);
	u64 own = record->session->written[which] - (progress ? progress->read[which] : 0);
	return own + size <= all - used;
}

static __always_inline void end(struct record *record, void *ring, u32 which)
{
	struct slot *slot = record->slot;
	u32 size = slot->head.size;
	if (size > TEXT_LIMIT) {
		size = TEXT_LIMIT;
		slot->head.size = TEXT_LIMIT;
		slot->head.flags |= CUT;
	}
	u64 total = sizeof(struct head) + size;
	if (has_share(record, ring, which, total) && !bpf_ringbuf_output(ring, slot, total, 0))
		__sync_fetch_and_add(&record->session->written[which], total);
	else
		count_loss(record->session);
	__sync_lock_test_and_set(record->taken, 0);
}

// -- text -----------------------------------------------------------------------------------------
static __always_inline int has_space(struct slot *slot, u32 at)
{
	if (at < TEXT_LIMIT)
		return 1;
	slot->head.flags |= CUT;
	return 0;
}

static __always_inline void add_nothing(struct slot *slot)
{
	u32 at = slot->head.size;
	if (!has_space(slot, at))
		return;
	slot->text[at & (TEXT_LIMIT - 1)] = 0;
	slot->head.size = at + 1;
}

// Append a text of the kernel and the NUL at its end.
static __always_inline void add_text(struct slot *slot, const void *text)
{
	u32 at = slot->head.size;
	if (!has_space(slot, at))
		return;
	long size = bpf_probe_read_kernel_str(&slot->text[at & (TEXT_LIMIT - 1)], ONE_TEXT, text);
	if (size > 0)
		slot->head.size = at + size;
	else
		add_nothing(slot);
}

// Append a text of the program; return its first character.
static __always_inline char add_user_text(struct slot *slot, u64 text)
{
	u32 at = slot->head.size;
	if (!has_space(slot, at))
		return 0;
	at &= TEXT_LIMIT - 1;
	long size = bpf_probe_read_user_str(&slot->text[at], ONE_TEXT, (void *)text);
	if (size <= 0) {
		if (text)
			slot->head.flags |= CUT; // it is in no memory any more, or never was
		add_nothing(slot);
		return 0;
	}
	slot->head.size = at + size;
	return slot->text[at];
}

static __always_inline void add_bytes(struct slot *slot, const void *from, u32 size)
{
	u32 at = slot->head.size;
	if (!has_space(slot, at))
		return;
	if (bpf_probe_read_kernel(&slot->text[at & (TEXT_LIMIT - 1)], size, from))
		__builtin_memset(&slot->text[at & (TEXT_LIMIT - 1)], 0, 8);
	slot->head.size = at + size;
}

#define DEPTH 64

// Functions that are not static are checked once by the verifier, not at each call.

// Append the names of a path, the last one first, and an empty one after them. A dentry that has
// no name below the root of its mount ends with "/" too.
__noinline int add_names(struct slot *slot, u64 of_mount, u64 of_dentry)
{
	if (!slot)
		return 0;
	struct vfsmount *vfsmount = (void *)of_mount;
	struct dentry *dentry = (void *)of_dentry;
	struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	struct dentry *root = BPF_CORE_READ(vfsmount, mnt_root);
	int i;
	for (i = 0; i < DEPTH; i++) {
		if (dentry == root) {
			struct mount *parent = BPF_CORE_READ(mount, mnt_parent);
			if (parent == mount)
				break;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = parent;
			root = BPF_CORE_READ(mount, mnt.mnt_root);
			continue;
		}
		struct dentry *above = BPF_CORE_READ(dentry, d_parent);
		add_text(slot, BPF_CORE_READ(dentry, d_name.name));
		if (above == dentry)
			break;
		dentry = above;
	}
	if (i == DEPTH)
		slot->head.flags |= CUT;
	add_nothing(slot);
	return 0;
}

static __always_inline void add_path(struct slot *slot, struct vfsmount *mount, struct dentry *dentry)
{
	add_names(slot, (u64)mount, (u64)dentry);
}

static __always_inline void add_file(struct slot *slot, struct file *file)
{
	add_path(slot, BPF_CORE_READ(file, f_path.mnt), BPF_CORE_READ(file, f_path.dentry));
}

static __always_inline void add_file_info(struct slot *slot, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct { u64 inode; u32 device, mode, flags, opened; } info = {
		.inode = BPF_CORE_READ(inode, i_ino),
		.device = BPF_CORE_READ(inode, i_sb, s_dev),
		.mode = BPF_CORE_READ(inode, i_mode),
		.flags = BPF_CORE_READ(file, f_flags),
		.opened = BPF_CORE_READ(file, f_mode),
	};
	add_bytes(slot, &info, sizeof(info));
	add_file(slot, file);
}

static __always_inline struct file *file_of(struct task_struct *task, u64 descriptor)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	u32 number = descriptor;
	struct file *file = 0;
	if (number >= BPF_CORE_READ(table, max_fds))
		return 0;
	struct file **files = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), files + number);
	return file;
}

#define HERE ((u32)-100) // AT_FDCWD
#define EAGAIN 11

// The descriptor of a path below /proc/self/fd, as servers of files use it; -1 if it is none.
static __always_inline s64 descriptor_in(const char *text)
{
	const char prefix[] = "/proc/self/fd/";
	s64 number = 0;
	int i;
	for (i = 0; i < (int)sizeof(prefix) - 1; i++)
		if (text[i] != prefix[i])
			return -1;
	for (; i < (int)sizeof(prefix) + 6; i++) {
		if (text[i] < '0' || text[i] > '9')
			break;
		number = number * 10 + (text[i] - '0');
	}
	return i > (int)sizeof(prefix) - 1 && (!text[i] || text[i] == '/') ? number : -1;
}

// Append a path as the program gave it, and that of the folder where it begins. With a mark before
// it, it is a path below /proc/self/fd, and the folder is the file of that descriptor.
__noinline int add_user_path(struct slot *slot, u64 text, u32 directory)
{
	if (!slot)
		return 0;
	struct task_struct *task = bpf_get_current_task_btf();
	u32 at = slot->head.size & (TEXT_LIMIT - 1);
	char first = add_user_text(slot, text);
	s64 descriptor = first == '/' ? descriptor_in(&slot->text[at]) : -1;
	struct file *opened = descriptor >= 0 ? file_of(task, descriptor) : 0;
	if (opened) {
		slot->text[at] = 1;
		add_file(slot, opened);
	} else if (first == '/') {
		add_path(slot, BPF_CORE_READ(task, fs, root.mnt), BPF_CORE_READ(task, fs, root.dentry));
	} else if (directory == HERE) {
		add_path(slot, BPF_CORE_READ(task, fs, pwd.mnt), BPF_CORE_READ(task, fs, pwd.dentry));
	} else {
		struct file *file = file_of(task, directory);
		if (file)
			add_file(slot, file);
		else
			add_nothing(slot);
	}
	return 0;
}

// -- processes ------------------------------------------------------------------------------------
SEC("tp_btf/task_newtask")
int BPF_PROG(on_fork, struct task_struct *child, u64 clone_flags)
{
	u64 id = session_of((struct task_struct *)bpf_get_current_task_btf());
	if (!id)
		return 0;
	struct tag given = {.session = id};
	if (!bpf_task_storage_get(&tags, child, &given, BPF_LOCAL_STORAGE_GET_F_CREATE)) {
		u32 pid = child->pid;
		if (bpf_map_update_elem(&late, &pid, &id, BPF_ANY) == 0) {
			__sync_fetch_and_add(&late_tasks, 1);
			return 0;
		}
		struct session *session = bpf_map_lookup_elem(&sessions, &id);
		if (session) {
			__sync_fetch_and_add(&session->sequence, 1);
			count_loss(session);
		}
	}
	return 0;
}

#define ARGUMENTS_LIMIT 24576

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	u64 id = session_of(task);
	if (!id)
		return 0;
	struct session *session = bpf_map_lookup_elem(&sessions, &id);
	struct record record;
	if (!session || !(session->kinds & COMMAND))
		return 0;
	if (!begin(&record, task, id, session, EXECUTED))
		return 0;
	struct slot *slot = record.slot;
	add_text(slot, BPF_CORE_READ(bprm, filename));
	add_path(slot, BPF_CORE_READ(task, fs, pwd.mnt), BPF_CORE_READ(task, fs, pwd.dentry));
	struct file *file = BPF_CORE_READ(task, mm, exe_file);
	add_file(slot, file);
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	u64 size = BPF_CORE_READ(task, mm, arg_end) - start;
	slot->head.values[0] = size;
	if (size > ARGUMENTS_LIMIT) {
		size = ARGUMENTS_LIMIT;
		slot->head.flags |= CUT;
	}
	u32 at = slot->head.size;
	slot->head.values[1] = at;
	if (at < TEXT_LIMIT - ARGUMENTS_LIMIT) {
		if (!bpf_probe_read_user(&slot->text[at], size, (void *)start))
			slot->head.size = at + size;
		else
			slot->head.flags |= CUT;
	} else {
		slot->head.flags |= CUT;
	}
	end(&record, &commands, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	u64 id = session_of(task);
	if (!id)
		return 0;
	if (late_tasks) {
		u32 pid = task->pid;
		if (bpf_map_delete_elem(&late, &pid) == 0)
			__sync_fetch_and_add(&late_tasks, -1);
	}
	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	struct session *session = bpf_map_lookup_elem(&sessions, &id);
	struct record record;
	if (!session || !(session->kinds & (COMMAND | SYSCALLS)))
		return 0;
	if (!begin(&record, task, id, session, EXITED))
		return 0;
	struct head *head = &record.slot->head;
	// exit_group sets the one of the process before its threads end.
	head->result = BPF_CORE_READ(task, exit_code);
	head->values[0] = BPF_CORE_READ(task, signal, utime) + BPF_CORE_READ(task, utime);
	head->values[1] = BPF_CORE_READ(task, signal, stime) + BPF_CORE_READ(task, stime);
	head->values[2] = BPF_CORE_READ(task, signal, maxrss);
	head->values[3] = BPF_CORE_READ(task, signal, group_exit_code);
	head->values[4] = BPF_CORE_READ(task, group_leader, start_boottime);
	end(&record, &commands, 0);
	return 0;
}

SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(on_ring_submission, struct io_kiocb *request)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 id = session_of(task);
	if (!id)
		return 0;
	struct session *session = bpf_map_lookup_elem(&sessions, &id);
	struct record record;
	if (!session)
		return 0;
	if (!begin(&record, task, id, session, RING_SUBMITTED))
		return 0;
	u32 opcode = BPF_CORE_READ(request, opcode);
	record.slot->head.values[0] = opcode;
	if ((opcode == 18 || opcode == 28) && bpf_core_type_exists(struct io_open)) {
		// Its operation begins where the request does: openat, openat2.
		struct io_open *open = (void *)request;
		record.slot->head.values[1] = (u32)BPF_CORE_READ(open, dfd);
		add_text(record.slot, BPF_CORE_READ(open, filename, name));
	}
	end(&record, &others, 1);
	return 0;
}

// -- system calls ---------------------------------------------------------------------------------
static __always_inline void count_call(struct task_struct *task, u64 id, struct session *session,
				       u32 call, s64 result)
{
	struct process process = {
		.session = id,
		.start = BPF_CORE_READ(task, group_leader, start_boottime),
		.pid = BPF_CORE_READ(task, tgid),
	};
	struct counters *counters = bpf_map_lookup_elem(&counts, &process);
	if (!counters) {
		u32 zero = 0;
		struct counters *none = bpf_map_lookup_elem(&no_counts, &zero);
		if (!none)
			return;
		bpf_map_update_elem(&counts, &process, none, BPF_NOEXIST);
		counters = bpf_map_lookup_elem(&counts, &process);
		if (!counters) {
			__sync_fetch_and_add(&session->uncounted, 1);
			return;
		}
	}
	struct counter *counter = &counters->others;
	for (u32 i = 0; i < PROBES; i++) {
		struct counter *tried = &counters->counter[(call + i) % COUNTERS];
		u32 found = tried->call;
		if (!found)
			found = __sync_val_compare_and_swap(&tried->call, 0, call + 1);
		if (!found || found == call + 1) {
			counter = tried;
			break;
		}
	}
	__sync_fetch_and_add(&counter->calls, 1);
	if (result < 0 && result > -4096)
		__sync_fetch_and_add(&counter->errors, 1);
}

// Sessions that are to end, with all that they started, wherever it is now.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, u64);
} ending SEC(".maps");
#define KILL 9

#define ADDRESS_LIMIT 128
struct socket_info {
	u16 family, type, protocol, local_port, port, size;
	u8 local[16], remote[16];
};

__noinline int add_socket(struct slot *slot, u64 descriptor, u64 address, u32 size)
{
	if (!slot)
		return 0;
	struct task_struct *task = bpf_get_current_task_btf();
	struct socket_info info = {};
	struct path peer = {};
	struct file *file = file_of(task, descriptor);
	struct sock *sk = 0;
	if (file && (BPF_CORE_READ(file, f_inode, i_mode) & 0170000) == 0140000) {
		struct socket *socket = BPF_CORE_READ(file, private_data);
		sk = BPF_CORE_READ(socket, sk);
	}
	if (sk) {
		info.family = BPF_CORE_READ(sk, __sk_common.skc_family);
		info.type = BPF_CORE_READ(sk, sk_type);
		info.protocol = BPF_CORE_READ(sk, sk_protocol);
		if (info.family == 2 || info.family == 10) {
			info.local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
			info.port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
		}
		if (info.family == 2) {
			u32 local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
			u32 remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);
			__builtin_memcpy(info.local, &local, 4);
			__builtin_memcpy(info.remote, &remote, 4);
		} else if (info.family == 10) {
			BPF_CORE_READ_INTO(&info.local, sk, __sk_common.skc_v6_rcv_saddr);
			BPF_CORE_READ_INTO(&info.remote, sk, __sk_common.skc_v6_daddr);
		} else if (info.family == 1) {
			struct unix_sock *other = (void *)BPF_CORE_READ((struct unix_sock *)sk, peer);
			if (other) {
				peer.mnt = BPF_CORE_READ(other, path.mnt);
				peer.dentry = BPF_CORE_READ(other, path.dentry);
			}
		}
	}
	if (size > ADDRESS_LIMIT)
		size = ADDRESS_LIMIT;
	if (!address)
		size = 0;
	info.size = size;
	add_bytes(slot, &info, sizeof(info));
	u32 at = slot->head.size;
	if (size && has_space(slot, at)) {
		at &= TEXT_LIMIT - 1;
		if (bpf_probe_read_user(&slot->text[at], size, (void *)address))
			__builtin_memset(&slot->text[at], 0, 2);
		slot->head.size = at + size;
	}
	if (peer.dentry)
		add_path(slot, peer.mnt, peer.dentry);
	else
		add_nothing(slot);
	if (info.family == 1)
		add_path(slot, BPF_CORE_READ(task, fs, pwd.mnt), BPF_CORE_READ(task, fs, pwd.dentry));
	else
		add_nothing(slot);
	return 0;
}

#define WORDS 32

// The arguments of a program that could not be executed.
__noinline int add_words(struct slot *slot, u64 words, u32 compat)
{
	if (!slot)
		return 0;
	u32 i;
	for (i = 0; i < WORDS; i++) {
		u64 word = 0;
		if (bpf_probe_read_user(&word, compat ? 4 : 8, (void *)(words + i * (compat ? 4 : 8))))
			break;
		if (!word)
			break;
		add_user_text(slot, word);
	}
	if (i == WORDS)
		slot->head.flags |= CUT;
	return 0;
}

static __always_inline u64 argument(struct slot *slot, u32 number)
{
	return slot->head.values[number & 7];
}

static __always_inline u32 directory(struct slot *slot, u32 number)
{
	return number ? (u32)argument(slot, number) : HERE;
}

// Arguments of socketcall(2), which 32-bit programs may use: as if it were the call itself.
static __always_inline void unpack_socket_call(struct slot *slot)
{
	u32 words[6] = {};
	bpf_probe_read_user(words, sizeof(words), (void *)argument(slot, 2));
	slot->head.values[7] = argument(slot, 1);
	for (int i = 0; i < 6; i++)
		slot->head.values[i + 1] = words[i];
}

static __always_inline void add_operation(struct slot *slot, struct task_struct *task,
					  struct operation *operation, u32 compat, s64 result)
{
	u32 class = operation->class;
	if (class == SOCKET_CALL) {
		unpack_socket_call(slot);
		switch (slot->head.values[7]) {
		case 2: case 3: class = SOCKET; break; // bind, connect: descriptor, address, size
		case 4: class = LISTEN; break;
		case 5: case 18: class = ACCEPT; break;
		case 16: class = SEND_MESSAGE; break;
		case 11: // sendto
			slot->head.values[2] = argument(slot, 5);
			slot->head.values[3] = argument(slot, 6);
			class = SOCKET;
			break;
		}
	}
	if (class == OPEN_HOW) {
		struct user_open_how how = {};
		bpf_probe_read_user(&how, sizeof(how), (void *)argument(slot, 3));
		slot->head.values[3] = how.flags;
		slot->head.values[4] = how.mode;
		class = OPEN;
	}
	slot->head.class = class;
	if (class == OPEN && result >= 0) {
		struct file *file = file_of(task, result);
		if (file)
			add_file_info(slot, file);
	} else if (class == OPEN || class == PATHS || class == EXECUTE) {
		add_user_path(slot, argument(slot, operation->path),
			      directory(slot, operation->directory));
		if (class == EXECUTE)
			add_words(slot, argument(slot, operation->path2), compat);
		else if (operation->path2)
			add_user_path(slot, argument(slot, operation->path2),
				      directory(slot, operation->directory2));
	} else if (class == DESCRIPTOR) {
		struct file *file = file_of(task, argument(slot, operation->path));
		if (file)
			add_file_info(slot, file);
	} else if (class == SOCKET) {
		u32 address = operation->path ? operation->path : 2;
		add_socket(slot, argument(slot, 1), argument(slot, address),
			   argument(slot, address + 1));
	} else if (class == ACCEPT || class == LISTEN) {
		add_socket(slot, class == ACCEPT ? result : argument(slot, 1), 0, 0);
	} else if (class == SEND_MESSAGE) {
		struct user_message message = {};
		if (compat) {
			u32 words[2] = {};
			bpf_probe_read_user(words, sizeof(words), (void *)argument(slot, 2));
			message.name = words[0];
			message.name_size = words[1];
		} else {
			bpf_probe_read_user(&message, sizeof(message), (void *)argument(slot, 2));
		}
		add_socket(slot, argument(slot, 1), message.name, message.name_size);
	} else if (class == ACTION && operation->path) {
		add_user_path(slot, argument(slot, operation->path), HERE);
	}
}

// A call that is over.
struct call {
	struct task_struct *task;
	u64 id;
	struct session *session;
	struct operation *operation;
	s64 result;
	u64 arguments[6];
	u32 index;
	u16 compat, flags;
};

static __always_inline int begin_call(struct record *record, struct call *call)
{
	if (!begin(record, call->task, call->id, call->session, CALLED))
		return 0;
	struct head *head = &record->slot->head;
	head->result = call->result;
	head->flags = call->flags;
	head->values[0] = call->index;
	for (int i = 0; i < 6; i++)
		head->values[i + 1] = call->arguments[i];
	return 1;
}

#define MESSAGES 32

// Each message of sendmmsg(2) may have an address.
static __always_inline void write_messages(struct call *call)
{
	u32 i;
	for (i = 0; i < MESSAGES && i < call->result; i++) {
		struct user_message message = {};
		u64 at = call->arguments[1] + i * (call->compat ? 32 : 64);
		if (call->compat) {
			u32 words[2] = {};
			bpf_probe_read_user(words, sizeof(words), (void *)at);
			message.name = words[0];
			message.name_size = words[1];
		} else {
			bpf_probe_read_user(&message, sizeof(message), (void *)at);
		}
		struct record record;
		if (!message.name || !begin_call(&record, call))
			continue;
		if (i == MESSAGES - 1 && call->result > MESSAGES)
			record.slot->head.flags |= CUT;
		record.slot->head.class = SEND_MESSAGES;
		add_socket(record.slot, call->arguments[0], message.name, message.name_size);
		end(&record, &others, 1);
	}
}

// Whether a call that sends gives an address: else it is one of a connection, or of none.
static __always_inline int has_address(struct call *call)
{
	if (call->operation->class == SOCKET && call->operation->path == 5) // sendto
		return call->arguments[4] != 0;
	if (call->operation->class == SEND_MESSAGE) {
		u64 name = 0;
		if (bpf_probe_read_user(&name, call->compat ? 4 : 8, (void *)call->arguments[1]))
			return 0;
		return name != 0;
	}
	return 1;
}

#define FMODE_WRITE 2
#define PUSH_INPUT 0x5412 // TIOCSTI
#define OF_CONSOLE 0x541c // TIOCLINUX

// Whether a call is one that a session has which asks for nothing but hand-overs: what was only
// read is none.
static __always_inline int may_hand_over(struct call *call)
{
	u32 class = call->operation->class;
	if (class == OPEN || class == OPEN_HOW) {
		if (call->result < 0)
			return 0;
		struct file *file = file_of(call->task, call->result);
		return file && BPF_CORE_READ(file, f_mode) & FMODE_WRITE;
	}
	return call->result >= 0 || (class != ACTION && class != CONTROL);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_call, struct pt_regs *regs, s64 result)
{
	struct call call = {.task = bpf_get_current_task_btf(), .result = result};
	call.id = session_of(call.task);
	if (!call.id)
		return 0;
	call.session = bpf_map_lookup_elem(&sessions, &call.id);
	if (!call.session)
		return 0;
	if (call.session->kinds & MAY_END && bpf_map_lookup_elem(&ending, &call.id))
		bpf_send_signal(KILL);
	if ((s32)regs->orig_ax < 0)
		return 0; // the return from a handler of signals
	u32 number = (u32)regs->orig_ax & (CALLS - 1);
	call.compat = (call.task->thread_info.status & 2) != 0;
	call.index = number | (call.compat ? CALLS : 0);
	if (call.session->kinds & SYSCALLS)
		count_call(call.task, call.id, call.session, call.index, result);
	if (!call.compat && call.session->named[number >> 6 & 15] >> (number & 63) & 1)
		call.flags = NAMED_CALL;
	call.operation = bpf_map_lookup_elem(&operations, &call.index);
	if (!call.operation)
		return 0;
	u32 class = call.operation->class;
	int asked = class && call.session->kinds & call.operation->kinds;
	if (class == CONTROL) {
		u32 request = call.compat ? regs->cx : regs->si;
		if (request != PUSH_INPUT && request != OF_CONSOLE)
			asked = 0;
	}
	if (asked && !(call.session->kinds & call.operation->kinds & ~HANDOVERS) &&
	    !may_hand_over(&call))
		asked = 0;
	if (class == EXECUTE && result >= 0)
		asked = 0; // it has a record of its own
	if (class == ACCEPT && result == -EAGAIN)
		asked = 0; // a server that looks whether somebody is there
	if (!asked && !call.flags)
		return 0;
	if (call.compat) {
		call.arguments[0] = (u32)regs->bx;
		call.arguments[1] = (u32)regs->cx;
		call.arguments[2] = (u32)regs->dx;
		call.arguments[3] = (u32)regs->si;
		call.arguments[4] = (u32)regs->di;
		call.arguments[5] = (u32)regs->bp;
	} else {
		call.arguments[0] = regs->di;
		call.arguments[1] = regs->si;
		call.arguments[2] = regs->dx;
		call.arguments[3] = regs->r10;
		call.arguments[4] = regs->r8;
		call.arguments[5] = regs->r9;
	}
	if (asked && class == SEND_MESSAGES) {
		write_messages(&call);
		asked = 0;
	}
	if (asked && !has_address(&call))
		asked = 0;
	struct record record;
	if (!(asked || call.flags) || !begin_call(&record, &call))
		return 0;
	if (asked)
		add_operation(record.slot, call.task, call.operation, call.compat, result);
	end(&record, &others, 1);
	return 0;
}
