<?php
require 'common.php';
$_SESSION['name'] = substr($_POST['name'] ?? 'nobody', 0, 40);
// bcrypt, as a login has it: much work, few bytes
$right = password_verify('secret', '$2y$08$' . substr(password_hash('secret', PASSWORD_BCRYPT, ['cost' => 8]), 7));
page('Welcome', $right ? 'yes' : 'no');
