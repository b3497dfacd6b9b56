"""What a checkpoint is: read and written in one place, known to training and to export."""
