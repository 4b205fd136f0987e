"""The tables of the papers that the defences are built on, with our figures beside theirs."""
