mod folders;
mod formulas;
mod real;
mod robust;

use super::Model;

fn of(config: &serde_json::Value) -> Model {
    Model::of_config(&config.to_string()).unwrap()
}
