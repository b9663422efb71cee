#![no_std]
//! What is true in the kernel and in the agent alike.
