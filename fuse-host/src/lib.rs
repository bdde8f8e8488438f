//! x
mod activity; mod adapter; mod attach; mod committer; mod convert; mod fusermount; mod mountpoint; mod negotiate; mod privileges; mod received; mod report; mod seeker; mod served;
