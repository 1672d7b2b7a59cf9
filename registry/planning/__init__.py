"""What is to do and what it will cost; runs nothing."""
