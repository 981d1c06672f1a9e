"""The root program that owns the BPF programs: the standard library, libbpf and this package."""
