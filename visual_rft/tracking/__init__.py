"""What a run leaves behind and says while it runs: its folder (`runfolder`), its progress (`console`), its report (`report`)."""
