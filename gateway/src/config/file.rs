use std::path::Path;
pub(super) fn read_bounded(path: &Path, _max: u64) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}
