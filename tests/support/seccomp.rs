//! Programs under a seccomp(2) filter that refuses a system call.

/// Executes a program under a filter that refuses a system call with EPERM. `$1`: the number of the call, `$2`: `OFFSET=VALUE` for each
/// argument that the refused call must have, by the argument's place in `struct seccomp_data`.
const FILTER: &str = "import ctypes, os, struct, sys\n\
    load, equal, give, allowed, refused = 0x20, 0x15, 0x06, 0x7fff0000, 0x00050000 | 1 # EPERM\n\
    wanted = [(0, int(sys.argv[1]))] + [tuple(map(int, part.split('='))) for part in sys.argv[2].split()]\n\
    program = []\n\
    for index, (offset, value) in enumerate(wanted):\n\
    \x20   program += [(load, 0, 0, offset), (equal, 0, 2 * (len(wanted) - index) - 1, value)]\n\
    program += [(give, 0, 0, refused), (give, 0, 0, allowed)]\n\
    code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in program))\n\
    filter = ctypes.create_string_buffer(struct.pack('HP', len(program), ctypes.addressof(code)))\n\
    prctl = ctypes.CDLL(None, use_errno=True).prctl\n\
    assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()\n\
    os.execvp(sys.argv[3], sys.argv[3:])";

/// A system call, by its numbers on x86-64 and on aarch64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemCall(u32, u32);

pub(crate) const PRCTL: SystemCall = SystemCall(157, 167);
pub(crate) const MEMFD_CREATE: SystemCall = SystemCall(319, 279);
pub(crate) const SENDFILE: SystemCall = SystemCall(40, 71);
pub(crate) const SCHED_SETSCHEDULER: SystemCall = SystemCall(144, 119);

/// The wrapper of a program to which `call` is refused if it has all `arguments`, each a number and a value.
pub(crate) fn without(call: SystemCall, arguments: &[(u32, u32)]) -> [String; 5] {
    let SystemCall(x86_64, aarch64) = call;
    let number = if cfg!(target_arch = "aarch64") { aarch64 } else { x86_64 };
    // The arguments follow the number of the call, the architecture and the instruction pointer.
    let wanted: Vec<_> =
        arguments.iter().map(|(argument, value)| format!("{}={value}", 16 + 8 * argument)).collect();
    ["python3", "-c", FILTER, &number.to_string(), &wanted.join(" ")].map(str::to_owned)
}
