//! What may be typed about two appliances.

use clap::Args;

const PUSH_HELP: &str = "\
What is each appliance's own stays as it is there: [high_availability.node], and the paths that `keep` names in it.
Files that the configuration names (certificates, users, keys) are not given: the other one needs them before.";

#[derive(Clone, Debug, Args)]
#[command(after_help = PUSH_HELP)]
pub struct Push {
    /// Only show what would change there
    #[arg(long)]
    pub dry_run: bool,
    /// Replace changes that were made there since both were the same
    #[arg(long)]
    pub force: bool,
    /// Why, for the history there
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "")]
    pub comment: String,
}
