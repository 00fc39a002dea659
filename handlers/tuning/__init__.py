"""Measures the fastest layout of a package on this machine, and checks precisions below float32."""
