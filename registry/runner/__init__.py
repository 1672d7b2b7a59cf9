"""What is still to do, and doing it: in this process or in several on this machine."""
