"""The lab's kind vm: nodes with kernels of their own, emulated by QEMU (or run by KVM where that really works)."""
