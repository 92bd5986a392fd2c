"""What a network's page and its report show: view models of the workspace, and their drawings. Decides nothing, asks nobody."""
