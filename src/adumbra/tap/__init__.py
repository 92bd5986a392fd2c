"""Where traffic comes from: sources give raw frames and tell their losses. They decode nothing."""
