//! Conditions that name a partial index: with the value in the statement, not
//! bound to it, so that every planner sees that the index holds all such rows.

use sea_orm::{
    ActiveEnum as _, Value,
    sea_query::{Expr, ExprTrait as _, IntoColumnRef},
};

use crate::{JobState, entities::jobs};

/// Jobs in this state.
pub(crate) fn is_in_state(state: JobState) -> Expr {
    is_literally(jobs::Column::State, state.to_value())
}

/// Rows whose column holds this constant; never anything that came from outside.
pub(crate) fn is_literally(column: impl IntoColumnRef, value: impl Into<Value>) -> Expr {
    Expr::col(column).eq(Expr::Constant(value.into()))
}
